"""Part of a layer's input left unrounded while rounding is learned (Wei et al. 2022, QDrop)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Drop:
    """Leaves each value of an input as it is with probability `share`."""

    share: float
    generator: torch.Generator | None = None  # of the CPU, so that all devices drop the same

    @property
    def all(self) -> bool:
        """Whether nothing is rounded."""
        return self.share >= 1

    def __call__(self, x: Tensor, rounded: Tensor) -> Tensor:
        """Values of x and of its rounded self, both of the same shape, mixed at random."""
        drawn = torch.rand(x.shape, generator=self.generator)
        return torch.where((drawn < self.share).to(x.device), x, rounded)
