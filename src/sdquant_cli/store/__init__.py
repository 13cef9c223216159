"""Versioned artifacts over an object store: the only door to zarr, obstore and artifact files."""

from .artifact import ArraySpec, Artifact
from .draft import Draft
from .store import Absent, Chained, Entry, Glance, Store

__all__ = ["Absent", "ArraySpec", "Artifact", "Chained", "Draft", "Entry", "Glance", "Store"]
