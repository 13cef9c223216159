"""Activation relaxing: the steps that matter most have wider activation grids (Tang et al. 2024, PCR)."""

import torch

from ..quant.grid import Grid
from ..quant.modules import Relaxed
from ..types import Relax

BITS = 10
SHARE = 0.2  # of the steps: tau


def relaxed_rows(relax: Relax | None, rows: int) -> Relaxed | None:
    """Which of the rows, the first of them near the noise, have wider grids; None: none of them."""
    if relax in (None, Relax.NONE):
        return None
    place, count = torch.arange(rows), round(SHARE * rows)
    chosen = place < count if relax is Relax.FIRST else place >= rows - count
    return Relaxed(chosen, Grid(BITS, signed=False))
