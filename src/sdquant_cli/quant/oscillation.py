"""Weights that oscillate between two integers are detected and frozen (Nagel et al. 2022, section 4.3).

A weight oscillates when its rounded integer changes in the direction opposite to its last change. The
frequency of that is tracked by an exponential mean; above a threshold the weight is frozen at its mean
integer for the rest of the training.
"""

import torch
from torch import Tensor

from .grid import Grid
from .weights import WeightQuantizer, dequantized_weight


class Oscillation:
    """The history of one weight tensor (C_out,...); its scales are (C_out G)."""

    MOMENTUM = 0.02  # of the exponential means

    def __init__(self, weight: Tensor, scale: Tensor, grid: Grid) -> None:
        codes = WeightQuantizer(scale.detach(), grid).codes(weight.detach())
        self.grid = grid
        self.codes = codes.to(torch.int8)
        self.direction = torch.zeros_like(self.codes)  # of the last change
        self.frequency = torch.zeros_like(codes)
        self.mean = codes
        self.frozen = torch.zeros_like(codes, dtype=torch.bool)

    @torch.no_grad()
    def update(self, weight: Tensor, scale: Tensor, threshold: float) -> None:
        """Record a weight after an optimizer step, and put its frozen entries back, in place."""
        codes = WeightQuantizer(scale.detach(), self.grid).codes(weight)
        change = (codes - self.codes).sign().to(torch.int8)
        oscillated = (change != 0) & (change == -self.direction)
        self.frequency.lerp_(oscillated.to(self.frequency), self.MOMENTUM)
        self.mean.lerp_(codes, self.MOMENTUM)
        self.direction = torch.where(change != 0, change, self.direction)
        self.codes = codes.to(torch.int8)
        self.frozen |= self.frequency > threshold
        frozen = dequantized_weight(self.mean.round(), scale.detach())
        weight.copy_(torch.where(self.frozen, frozen, weight))

    def state(self) -> dict[str, Tensor]:
        """Return the history by name, for a checkpoint."""
        return {name: getattr(self, name) for name in ("codes", "direction", "frequency", "mean", "frozen")}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from the history of a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)
