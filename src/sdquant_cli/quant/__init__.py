"""Quantization as pure tensor mathematics on any nn.Module. Knows no diffusers and no disk."""
