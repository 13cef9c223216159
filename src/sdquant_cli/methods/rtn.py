"""Rounding to nearest: scales from weights and observed inputs, nothing trained. The baseline of methods."""

from ..calibration.recipe import Recipe

RECIPE = Recipe(
    name="rtn",
    cites="Nagel et al. 2021, A White Paper on Neural Network Quantization, section 3",
    iterations=0,
    sensitive_weight=0.0,
)
