"""Scales and zero-points of inputs from data."""

import torch
from torch import Tensor

from .grid import TINY, Grid
from .rounding import Quantizer, round_values

RANGES = 24  # tried for an input, from 0.3 of both ends to all of them


def affine_parameters(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return scales and integer zero-points that cover [low, high] and represent zero exactly."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / (grid.high - grid.low)).clamp_min(TINY)
    zero_point = torch.round(grid.low - low / scale).clamp(grid.low, grid.high)
    return scale, zero_point


def clipped_range(
    values: Tensor, low: Tensor, high: Tensor, grid: Grid, power: float, end: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the part of [low, high] whose grid rounds the values (K) with the least sum of |error|^power.

    `low` and `high` count among the values, each `end` times: beside few values of many, once is too much.
    They may lie beyond the values. Power 2 is squared error; 2.4 weighs clipped values more (EfficientDM,
    BRECQ).
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    fractions = torch.linspace(0.3, 1.0, RANGES)
    scales, zero_points = affine_parameters(low * fractions, high * fractions, grid)
    points = torch.cat([values, low[None], high[None]]).expand(RANGES, -1).contiguous()
    rounded = round_values(points, Quantizer(scales[:, None], zero_points[:, None], grid))
    errors = rounded.sub_(points).abs_().pow_(power)
    errors[:, -2:] *= end
    error = errors.sum(1)
    best = fractions[error.flip(0).argmin().neg() - 1]  # of equals the widest
    return low * best, high * best


def pooling_windows(count: Tensor, enough: int) -> list[Tensor]:
    """Return for each row the rows around it, as few as hold `enough` in sum of `count` (R), or all.

    A row with little data takes its range from these. Raises ValueError if no row has data.
    """
    if not bool(count.any()):
        raise ValueError("no row has data")
    windows = []
    for row in range(len(count)):
        low = high = row
        while count[low : high + 1].sum() < enough and (low > 0 or high < len(count) - 1):
            low, high = max(low - 1, 0), min(high + 1, len(count) - 1)
        windows.append(torch.arange(low, high + 1))
    return windows
