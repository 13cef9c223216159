"""Part of a layer's input kept unrounded while rounding is learned (Wei et al. 2022, QDrop).

Which values are kept follows from a seed and their index: nothing is stored for the backward pass, and all
devices keep the same ones.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_WORD = 1 << 32


class Draw(NamedTuple):
    """Keeps the values whose index, hashed with `seed`, is below `bound`; both have 32 bits."""

    seed: int
    bound: int

    def keep_mask(self, x: Tensor) -> Tensor:
        """Return a mask of x's shape, true for values that stay unrounded."""
        index = torch.arange(x.numel(), device=x.device).view(x.shape)
        return _hash((index % _WORD) ^ self.seed) < self.bound


def _hash(h: Tensor) -> Tensor:
    """Hash 32-bit numbers held in int64 to 32 bits (Wellons 2018, lowbias32)."""
    h = ((h ^ h >> 16) * 0x7FEB352D) % _WORD
    h = ((h ^ h >> 15) * (0x846CA68B - _WORD)) % _WORD  # less 2^32, so that the product fits
    return h ^ h >> 16


@dataclass(frozen=True)
class Drop:
    """Keeps each value of an input unrounded with probability `share`."""

    share: float
    generator: torch.Generator | None = None  # on the CPU

    @property
    def all(self) -> bool:
        """Whether nothing is rounded."""
        return self.share >= 1

    def draw(self) -> Draw:
        """Return a new draw for one input; not for use where `all` values stay unrounded."""
        seed = int(torch.randint(_WORD, (), generator=self.generator))
        return Draw(seed, round(self.share * (_WORD - 1)))
