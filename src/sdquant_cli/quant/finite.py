"""Checks before anything is stored: all numbers are finite."""

from collections.abc import Sequence

from torch import Tensor

from ..errors import SdquantError
from .state import State


def check_finite(values: Tensor, names: Sequence[str], advice: str) -> None:
    """Raise SdquantError that names the first of the values (N,...) with NaN or infinity."""
    broken = (~values.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if broken:
        raise SdquantError(f"{names[broken[0]]} is not finite: {advice}; nothing of its unit was stored")


def check_state(state: State) -> None:
    """Raise SdquantError that names the first layer whose scales have NaN or infinity."""
    advice = "the network computes NaN or infinity on the latents; try another --dtype or method"
    for name, layer in state.items():
        for field in ("weight_step", "activation_step"):
            check_finite(getattr(layer, field)[None], [f"{field} of layer {name}"], advice)
