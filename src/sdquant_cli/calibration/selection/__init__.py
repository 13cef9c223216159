"""Which latents are kept for calibration: rules over the steps of a trajectory."""
