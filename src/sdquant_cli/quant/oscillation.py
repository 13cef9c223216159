"""Weights that oscillate between two integers, found and frozen (Nagel et al. 2022, section 4.3).

A weight oscillates when its rounded integer changes in the direction opposite to its last change. The
frequency of that is tracked by an exponential mean; above a threshold the weight is frozen at its mean
integer for the rest of the training.
"""

import torch
from torch import Tensor

from .grid import Grid, along_first_axis, quantize


class Oscillation:
    """History of one weight tensor (C_out,...); `step` there and below is (C_out)."""

    MOMENTUM = 0.02  # of the exponential means

    def __init__(self, weight: Tensor, step: Tensor, grid: Grid) -> None:
        codes = quantize(weight.detach(), along_first_axis(step.detach(), weight), 0.0, grid)
        self.grid = grid
        self.codes = codes.to(torch.int8)
        self.direction = torch.zeros_like(self.codes)  # of the last change
        self.frequency = torch.zeros_like(codes)
        self.mean = codes
        self.frozen = torch.zeros_like(codes, dtype=torch.bool)

    @torch.no_grad()
    def update(self, weight: Tensor, step: Tensor, threshold: float) -> None:
        """Take in a weight after an optimizer step, and put its frozen entries back, in place."""
        step = along_first_axis(step.detach(), weight)
        codes = quantize(weight, step, 0.0, self.grid)
        change = (codes - self.codes).sign().to(torch.int8)
        oscillated = (change != 0) & (change == -self.direction)
        self.frequency.lerp_(oscillated.to(self.frequency), self.MOMENTUM)
        self.mean.lerp_(codes, self.MOMENTUM)
        self.direction = torch.where(change != 0, change, self.direction)
        self.codes = codes.to(torch.int8)
        self.frozen |= self.frequency > threshold
        weight.copy_(torch.where(self.frozen, self.mean.round() * step, weight))

    def state(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("codes", "direction", "frequency", "mean", "frozen")}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
