"""How quantizers are found: what a published method chooses, built from the blocks of `quant`."""
