"""Checks for numbers of a packed network that no calibration gives and that would change its images."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import DamagedArtifact
from ..quant.grid import Grid
from .codes import code_range
from .digests import REMEDY
from .layers import Packed
from .network import packed_layers


def check_numbers(network: nn.Module) -> None:
    """Raise DamagedArtifact that names the first layer with numbers outside their grids."""
    for name, layer in packed_layers(network).items():
        for field, problem in _problems(layer):
            raise DamagedArtifact(f"{name}.{field}: {problem}; {REMEDY}")


def _problems(layer: Packed) -> Iterator[tuple[str, str]]:
    for field in ("weight_step", "activation_step"):
        step: Tensor = getattr(layer, field)
        signed = field == "weight_step" and layer.form.full_range
        usable = step != 0 if signed else step > 0
        if not bool((step.isfinite() & usable).all()):
            yield field, f"has scales that are not finite and {'other than zero' if signed else 'positive'}"
    highest = torch.tensor([Grid(bits, signed=False).high for bits in layer.row_bits])
    zero = layer.activation_zero.cpu()
    if not bool(((zero >= 0) & (zero <= highest)).all()):
        yield "activation_zero", "has zero-points outside the grid"
    smoothing = layer.smoothing
    if smoothing is not None and not bool((smoothing.isfinite() & (smoothing > 0)).all()):
        yield "smoothing", "has multipliers that are not finite and positive"
    grid, _ = layer.grids
    low, high = code_range(layer.weight.data, layer.bits.weights)
    if low < grid.low or high > grid.high:
        yield "weight", f"has codes outside {grid.low} ... {grid.high}"
