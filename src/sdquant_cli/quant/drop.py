"""Part of a layer's input left unrounded while rounding is learned (Wei et al. 2022, QDrop).

Which values are left follows from a seed and their place: nothing is kept for the backward pass, and all
devices leave the same ones.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_WORD = 1 << 32


class Draw(NamedTuple):
    """Leaves the values whose place, hashed with `seed`, is below `bound`; both are of 32 bits."""

    seed: int
    bound: int

    def keep_mask(self, x: Tensor) -> Tensor:
        """A mask of x's shape: which values are left as they are."""
        place = torch.arange(x.numel(), device=x.device).view(x.shape)
        return _hash((place % _WORD) ^ self.seed) < self.bound


def _hash(h: Tensor) -> Tensor:
    """A 32-bit hash of numbers of 32 bits, held in int64 (Wellons 2018, lowbias32)."""
    h = ((h ^ h >> 16) * 0x7FEB352D) % _WORD
    h = ((h ^ h >> 15) * (0x846CA68B - _WORD)) % _WORD  # less 2^32, so that the product fits
    return h ^ h >> 16


@dataclass(frozen=True)
class Drop:
    """Leaves each value of an input as it is with probability `share`."""

    share: float
    generator: torch.Generator | None = None  # of the CPU

    @property
    def all(self) -> bool:
        """Whether nothing is rounded."""
        return self.share >= 1

    def draw(self) -> Draw:
        """For one input, anew at each call; not where `all` are left."""
        seed = int(torch.randint(_WORD, (), generator=self.generator))
        return Draw(seed, round(self.share * (_WORD - 1)))
