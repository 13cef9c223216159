"""Versioned artifacts over an object store: the only door to zarr, obstore and artifact files."""

from .artifact import ArraySpec, Artifact
from .draft import Draft
from .planned import PlannedStore
from .store import Absent, Entry, PinnedStore, ReadOnlyStore, Store

__all__ = [
    "Absent",
    "ArraySpec",
    "Artifact",
    "Draft",
    "Entry",
    "PinnedStore",
    "PlannedStore",
    "ReadOnlyStore",
    "Store",
]
