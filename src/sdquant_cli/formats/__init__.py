"""What other programs load: checkpoints in one file, and graphs for other runtimes."""
