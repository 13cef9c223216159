"""Activation relaxing: the steps that matter most have wider activation grids (Tang et al. 2024, PCR)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Relax
from .grid import Grid

BITS = 10
SHARE = 0.2  # of the steps: tau


@dataclass(frozen=True)
class RelaxedRows:
    """Rows whose inputs are rounded to a grid of their own."""

    rows: Tensor  # (rows) bool
    grid: Grid

    def for_layer(self, bits: int, tables: int) -> "RelaxedRows | None":
        """What a layer of `tables` rows has of it: nothing if it has one for all steps, or as many bits."""
        return self if tables == len(self.rows) and bits < self.grid.bits else None


def bits_of_rows(bits: int, tables: int, relaxed: RelaxedRows | None) -> Tensor:
    """Bits (tables) int64 of a layer's activations, of `bits` where they are not relaxed."""
    rows = torch.full([tables], bits)
    if relaxed and (wider := relaxed.for_layer(bits, tables)):
        rows[wider.rows] = wider.grid.bits
    return rows


def relaxed_rows(relax: Relax | None, rows: int) -> RelaxedRows | None:
    """Which of the rows, the first of them near the noise, have wider grids; None: none of them."""
    if relax in (None, Relax.NONE):
        return None
    place, count = torch.arange(rows), round(SHARE * rows)
    chosen = place < count if relax is Relax.FIRST else place >= rows - count
    return RelaxedRows(chosen, Grid(BITS, signed=False))
