"""Versioned artifacts over an object store: the only door to zarr, obstore and artifact files."""

from .artifact import ArraySpec, Artifact, Draft
from .store import Store

__all__ = ["ArraySpec", "Artifact", "Draft", "Store"]
