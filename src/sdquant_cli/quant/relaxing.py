"""Activation relaxing: the timesteps that matter most get 10-bit activations (Tang et al. 2024, PCR)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Relax
from .grid import Grid

BITS = 10
SHARE = 0.2  # of the timesteps: tau


@dataclass(frozen=True)
class RelaxedRows:
    """The rows, that is timesteps, whose activations have a wider grid."""

    rows: Tensor  # (rows) bool
    grid: Grid

    def for_layer(self, bits: int, tables: int) -> "RelaxedRows | None":
        """Return self for a layer that has a table entry per row and fewer bits, None for others."""
        return self if tables == len(self.rows) and bits < self.grid.bits else None


def bits_of_rows(bits: int, tables: int, relaxed: RelaxedRows | None) -> Tensor:
    """Return the bits (tables) int64 of a layer's activations, `bits` where they are not relaxed."""
    rows = torch.full([tables], bits)
    if relaxed and (wider := relaxed.for_layer(bits, tables)):
        rows[wider.rows] = wider.grid.bits
    return rows


def relaxed_rows(relax: Relax | None, rows: int) -> RelaxedRows | None:
    """Return the relaxed ones of so many rows, of which the first is at the noise; None if there are none."""
    if relax in (None, Relax.NONE):
        return None
    row, count = torch.arange(rows), round(SHARE * rows)
    mask = row < count if relax is Relax.FIRST else row >= rows - count
    return RelaxedRows(mask, Grid(BITS, signed=False))
