"""Step sizes and zero-points from data."""

import torch
from torch import Tensor

from .grid import Grid, round_to_grid

TINY = 1e-8  # smallest step size: keeps an all-zero tensor representable


def weight_steps(weight: Tensor, grid: Grid, candidates: int = 40, shrink: float = 0.5) -> Tensor:
    """One step size (C_out) per output channel: the clipping of max|w| with the least squared error.

    Tries `candidates` clippings from `shrink` to 1 of each channel's largest magnitude.
    """
    flat = weight.detach().flatten(1)
    largest = flat.abs().amax(dim=1).clamp_min(TINY * grid.high)
    best_error = torch.full_like(largest, torch.inf)
    best = largest / grid.high
    for fraction in torch.linspace(shrink, 1.0, candidates).tolist():
        step = largest * (fraction / grid.high)
        error = (round_to_grid(flat, step[:, None], 0.0, grid) - flat).square().sum(dim=1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = torch.where(better, step, best)
    return best


def affine_parameters(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Step sizes and integer zero-points that cover [low, high] and represent zero exactly."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = ((high - low) / (grid.high - grid.low)).clamp_min(TINY)
    zero = torch.round(grid.low - low / step).clamp(grid.low, grid.high)
    return step, zero


def borrow_rows(values: Tensor, seen: Tensor) -> Tensor:
    """Fill rows (R,...) without data from the nearest row that has some, the earlier on a tie.

    Raises ValueError if no row has data.
    """
    if not bool(seen.any()):
        raise ValueError("no row has data")
    rows = torch.arange(len(values))
    known = rows[seen]
    nearest = known[(rows[:, None] - known[None]).abs().argmin(dim=1)]
    return values[nearest]
