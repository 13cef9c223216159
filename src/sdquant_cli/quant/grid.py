"""The uniform affine grid, as a value, and rounding to it (Efficiency Meets Fidelity, eq. 4-5)."""

from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-8  # smallest scale: keeps an all-zero tensor representable


@dataclass(frozen=True)
class Grid:
    """The integers that codes may take; a narrow one leaves out the lowest code: 15 levels at 4 bits."""

    bits: int
    signed: bool
    narrow: bool = False

    @property
    def low(self) -> int:
        """The smallest code."""
        return (-(2 ** (self.bits - 1)) if self.signed else 0) + self.narrow

    @property
    def high(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1


def fineness(bits: int) -> float:
    """Return the distance between a weight's values over that at 4 bits, at most 1."""
    return min(1.0, Grid(4, signed=True).high / Grid(bits, signed=True).high)


def along_first_axis(values: Tensor, like: Tensor) -> Tensor:
    """Return values (N) or (1) as (N,1,...), to broadcast along the first axis of `like` (N,...).

    Scales of a weight's output channels and of a batch's items are applied so.
    """
    return values.view(-1, *[1] * (like.dim() - 1))


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor | float, grid: Grid) -> Tensor:
    """Return codes clip(round(x / s) + z, q_min, q_max) as floats; s and z broadcast against x (eq. 4)."""
    return (torch.round(x / scale) + zero_point).clamp(grid.low, grid.high)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | float) -> Tensor:
    """Return values (q - z) * s (eq. 5)."""
    return (codes - zero_point) * scale


def round_to_grid(x: Tensor, scale: Tensor, zero_point: Tensor | float, grid: Grid) -> Tensor:
    """Return x rounded to its grid: what a quantized network computes with."""
    return dequantize(quantize(x, scale, zero_point, grid), scale, zero_point)
