"""Quantized networks as they are shipped and run: packed weights, integer execution, diffusers' plug-in."""
