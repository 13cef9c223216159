"""How quantizers are found, from values alone: observation, training, reconstruction, bits, recipes."""
