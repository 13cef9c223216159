"""Versioned artifacts over an object store: the only door to zarr, obstore and artifact files."""

from .artifact import ArraySpec, Artifact, Draft
from .store import Absent, Glance, Store

__all__ = ["Absent", "ArraySpec", "Artifact", "Draft", "Glance", "Store"]
