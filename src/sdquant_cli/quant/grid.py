"""The uniform affine grid, as a value, and rounding to it (Efficiency Meets Fidelity, eq. 4-5)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Integers that codes may take: `signed` is symmetric about zero without the lowest code."""

    bits: int
    signed: bool

    @property
    def low(self) -> int:
        return -(2 ** (self.bits - 1)) + 1 if self.signed else 0

    @property
    def high(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1


def along_first_axis(values: Tensor, like: Tensor) -> Tensor:
    """Return values (N) or (1) as (N,1,...), to broadcast along the first axis of `like` (N,...).

    Scales of a weight's output channels and of a batch's items are applied so.
    """
    return values.view(-1, *[1] * (like.dim() - 1))


def quantize(x: Tensor, step: Tensor, zero: Tensor | float, grid: Grid) -> Tensor:
    """Codes clip(round(x / s) + z, q_min, q_max) as floats; s and z broadcast against x (eq. 4)."""
    return (torch.round(x / step) + zero).clamp(grid.low, grid.high)


def dequantize(codes: Tensor, step: Tensor, zero: Tensor | float) -> Tensor:
    """Values (q - z) * s (eq. 5)."""
    return (codes - zero) * step


def round_to_grid(x: Tensor, step: Tensor, zero: Tensor | float, grid: Grid) -> Tensor:
    """x rounded to its grid: what a quantized network computes with."""
    return dequantize(quantize(x, step, zero, grid), step, zero)
