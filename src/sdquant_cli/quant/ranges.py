"""Step sizes and zero-points from data."""

import torch
from torch import Tensor

from .grid import Grid, round_to_grid
from .rounding import round_values, row_rounding_errors

TINY = 1e-8  # smallest step size: keeps an all-zero tensor representable


def weight_scales(weight: Tensor, grid: Grid, candidates: int = 40, shrink: float = 0.5) -> Tensor:
    """One step size (C_out) per output channel: the clipping of max|w| with the least squared error.

    Tries `candidates` clippings from `shrink` to 1 of each channel's largest magnitude.
    """
    flat = weight.detach().flatten(1).float().contiguous()
    largest = flat.abs().amax(dim=1).clamp_min(TINY * grid.high)
    best_error = torch.full_like(largest, torch.inf, dtype=torch.float64)
    best = largest / grid.high
    for fraction in torch.linspace(shrink, 1.0, candidates).tolist():
        step = largest * (fraction / grid.high)
        error = row_rounding_errors(flat, step, grid)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = torch.where(better, step, best)
    return best


def weight_rounding_error(weight: Tensor, bits: int) -> float:
    """Return |W - Q(W)|^2 of a weight rounded to its symmetric grid, one scale per output channel."""
    grid = Grid(bits, signed=True)
    flat = weight.detach().flatten(1)
    rounded = round_to_grid(flat, weight_scales(flat, grid)[:, None], 0.0, grid)
    return float((flat - rounded).double().square().sum())


def affine_parameters(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Step sizes and integer zero-points that cover [low, high] and represent zero exactly."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = ((high - low) / (grid.high - grid.low)).clamp_min(TINY)
    zero = torch.round(grid.low - low / step).clamp(grid.low, grid.high)
    return step, zero


def clipped_range(
    values: Tensor,
    low: Tensor,
    high: Tensor,
    grid: Grid,
    power: float,
    end: float = 1.0,
    candidates: int = 24,
    shrink: float = 0.3,
) -> tuple[Tensor, Tensor]:
    """The part of [low, high] whose grid rounds the values (K) with the least sum of |error|^power.

    `low` and `high` count among the values, each `end` times: beside few values of many, once is too much.
    Tries `candidates` fractions of both ends, from `shrink` to 1. Power 2 is squared error; 2.4 weighs
    clipped values more (EfficientDM, BRECQ). `low` and `high` may lie beyond the values.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    fractions = torch.linspace(shrink, 1.0, candidates)
    steps, zeros = affine_parameters(low * fractions, high * fractions, grid)
    points = torch.cat([values, low[None], high[None]]).expand(candidates, -1).contiguous()
    errors = round_values(points, steps[:, None], zeros[:, None], grid).sub_(points).abs_().pow_(power)
    errors[:, -2:] *= end
    error = errors.sum(1)
    best = fractions[error.flip(0).argmin().neg() - 1]  # of equals the widest
    return low * best, high * best


def pooling_windows(count: Tensor, enough: int) -> list[Tensor]:
    """For each row, the rows around it, as few as hold `enough` in sum of `count` (R), or all.

    Raises ValueError if no row holds anything.
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
