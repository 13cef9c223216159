"""Trains the embedded model `shapes` from nothing: VAE, denoiser with text encoder, then the CLIP."""
