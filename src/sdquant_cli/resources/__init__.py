"""Time and memory of a stage: measured, or predicted before it runs."""
