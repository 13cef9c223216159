"""Calibration: quantizers from observation, training and reconstruction. It takes values, never a store."""
