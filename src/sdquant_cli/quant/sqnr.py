"""The direct measure: how far the network's output moves when one layer alone is on its grid."""

import torch
from torch import Tensor

from .grid import Grid, round_to_grid
from .ranges import weight_scales


def energy(output: Tensor) -> Tensor:
    """Sum of squares (items) of outputs (items, ...)."""
    return output.double().square().flatten(1).sum(dim=1)


def noise_to_signal(noise: Tensor, signal: Tensor) -> Tensor:
    """sum |y - y_q|^2 / sum |y|^2 (layers) of noise (layers, items) and signal (items)."""
    return noise.sum(dim=1) / signal.sum()


def decibels(ratio: float) -> float | None:
    """SQNR = -10 log10 of a noise-to-signal ratio; None where there is no noise."""
    return -10 * float(torch.tensor(ratio, dtype=torch.float64).log10()) if ratio > 0 else None


def rounding_error(weight: Tensor, bits: int) -> float:
    """|W - Q(W)|^2 of a weight rounded to its symmetric grid, one step size per output channel."""
    grid = Grid(bits, signed=True)
    flat = weight.detach().flatten(1)
    rounded = round_to_grid(flat, weight_scales(flat, grid)[:, None], 0.0, grid)
    return float((flat - rounded).double().square().sum())
