"""Versioned artifacts over an object store: the only door to zarr, obstore and artifact files."""

from .artifact import ArraySpec, Artifact, Draft
from .store import Absent, Chained, Glance, Store

__all__ = ["Absent", "ArraySpec", "Artifact", "Chained", "Draft", "Glance", "Store"]
