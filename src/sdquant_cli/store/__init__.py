"""Versioned artifacts over an object store: the only door to zarr, obstore and artifact files."""

from .artifact import ArraySpec, Artifact, key_of
from .draft import Draft, Facts, lengths
from .planned import PlannedStore
from .store import Absent, Entry, PinnedStore, ReadOnlyStore, Store

__all__ = [
    "Absent",
    "ArraySpec",
    "Artifact",
    "Draft",
    "Entry",
    "Facts",
    "PinnedStore",
    "PlannedStore",
    "ReadOnlyStore",
    "Store",
    "key_of",
    "lengths",
]
