"""Diffusion models as sdquant sees them: the only door to diffusers and transformers."""
