"""Quantizers of weights: symmetric, one scale for each output channel or each group of input channels in it.

A weight (C_out,C_in,...) in G groups has C_out G scales: those of a channel's groups follow one another, as
its input channels do in memory. So a weight seen as (C_out G, values) has one scale a row, whatever G is.

On a grid with as many negative codes as a byte has, the lowest code lies further from zero than the highest;
a scale may be negative, so that either end of a row's values can have it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .grid import TINY, Grid, dequantize, quantize
from .rounding import Quantizer, best_scales, round_gradients, round_values

SMALLEST_HALF = 2.0**-24  # above zero in fp16
CLIPPINGS = 40  # tried for a weight, from half of its largest magnitude to all of it


def in_groups(weight: Tensor, scale: Tensor) -> Tensor:
    """Return a weight (C_out,...) with the values that share a scale in one row (len(scale), values)."""
    return weight.reshape(len(scale), -1)


class WeightQuantizer(NamedTuple):
    """The quantizer of a weight (C_out,...)."""

    scale: Tensor  # (C_out G)
    grid: Grid

    def codes(self, weight: Tensor) -> Tensor:
        """Return codes clip(round(w / s), low, high) as floats, in the weight's shape (eq. 4)."""
        rows = in_groups(weight, self.scale)
        return quantize(rows, self.scale[:, None], 0.0, self.grid).view(weight.shape)

    def values(self, weight: Tensor) -> Tensor:
        """Return the weight rounded to its grid, in the dtype of the scales."""
        rows = in_groups(weight.to(self.scale.dtype), self.scale)
        return round_values(rows, self._of_rows()).view(weight.shape)

    def gradients(self, weight: Tensor, up: Tensor, *, to_scale: bool) -> tuple[Tensor, Tensor | None]:
        """Return dL/dw (the weight's shape) and, if asked for, dL/ds (C_out G), from up = dL/d values(w)."""
        rows = in_groups(weight.to(self.scale.dtype), self.scale)
        up = in_groups(up.to(self.scale.dtype), self.scale)
        to_weight, by_scale = round_gradients(rows, up, self._of_rows(), to_scale=to_scale)
        return to_weight.view(weight.shape), None if by_scale is None else by_scale.flatten()

    def _of_rows(self) -> Quantizer:
        return Quantizer.symmetric(self.scale[:, None], self.grid)


def dequantized_weight(codes: Tensor, scale: Tensor) -> Tensor:
    """Return the weight (C_out,...) of codes in its shape and scales (C_out G), in their dtype."""
    return dequantize(in_groups(codes.to(scale.dtype), scale), scale[:, None], 0.0).view(codes.shape)


def weight_scales(weight: Tensor, grid: Grid, groups: int = 1) -> Tensor:
    """Return the scales (C_out groups) of a weight: the clipping of max|w| with the least squared error.

    Unless the grid is narrow, the lowest code is for the end of a row's values that is further from zero.
    """
    rows = weight.detach().float().reshape(len(weight) * groups, -1).contiguous()
    largest = rows.abs().amax(dim=1).clamp_min(TINY * -grid.low)
    if not grid.narrow:
        largest = torch.where(rows.amax(1) > -rows.amin(1), -largest, largest)
    factors = torch.linspace(0.5, 1.0, CLIPPINGS).double() / -grid.low
    return best_scales(rows, largest, factors.to(rows), grid)


def storable(scale: Tensor, channels: int) -> Tensor:
    """Return scales as they are stored: those of groups in fp16, since a channel has many, and never zero."""
    if len(scale) == channels:
        return scale
    magnitude = scale.abs().clamp_min(SMALLEST_HALF).half().to(scale.dtype)
    return magnitude.copysign(scale)


def weight_rounding_error(weight: Tensor, grid: Grid, groups: int = 1) -> float:
    """Return |W - Q(W)|^2 of a weight rounded to its grid."""
    weight = weight.detach().float()
    rounded = WeightQuantizer(weight_scales(weight, grid, groups), grid).values(weight)
    return float((weight - rounded).double().square().sum())
