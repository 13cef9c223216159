"""Seconds and memory: measured while a stage runs, and predicted before."""
