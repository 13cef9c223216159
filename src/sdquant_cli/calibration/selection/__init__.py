"""Selection of calibration latents: rules over the calls of a trajectory."""
