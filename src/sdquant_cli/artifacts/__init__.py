"""Artifacts by kind: the arrays of each, and functions that read it and compute it where it is absent."""
