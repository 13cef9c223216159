"""Formats of other programs: checkpoints in one file, and graphs for other runtimes."""
