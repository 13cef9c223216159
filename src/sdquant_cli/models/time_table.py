"""Time-information precalculation (Efficiency Meets Fidelity, section 4.2, eq. 8).

In SD v1 and v2 the projected time features depend on the timestep alone, so they are computed once
per row in floating point; the time embedding and all projections then leave the UNet.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .layers import PROJECTION


@torch.no_grad()
def tabulate(unet: Any, timesteps: Sequence[float]) -> dict[str, Tensor]:
    """e_p for every timestep: module path of each resnet -> (rows, C_out), in the UNet's dtype."""
    parameter = next(unet.parameters())
    t = torch.tensor(timesteps, dtype=torch.float32, device=parameter.device)
    embedding = unet.time_embedding(unet.time_proj(t).to(parameter.dtype))  # e_t = emb(t)
    return {
        name.removesuffix(f".{PROJECTION}"): module(nn.functional.silu(embedding))  # e_p = proj(e_t)
        for name, module in unet.named_modules()
        if name.endswith(PROJECTION)
    }


class Rows(Protocol):
    """Which table row each item of the current batch uses."""

    def current(self, items: int) -> Tensor:
        """Rows (items,) of the batch in hand, or (1,) where all share one."""

    def follow(self, network: nn.Module) -> None:
        """Take the rows from the timestep of each call of the network."""


class _TableRow(nn.Module):
    """Stands where a projection was: returns the rows of the current items, whatever it is given."""

    table: Tensor

    def __init__(self, table: Tensor, rows: Rows) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.rows = rows

    def forward(self, embedding: Tensor) -> Tensor:
        return self.table[self.rows.current(len(embedding))]


class _NoEmbedding(nn.Module):
    """Stands where the time embedding was: one zero per item."""

    def forward(self, projected: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return projected.new_zeros(len(projected), 1)


def run_on_table(unet: nn.Module, table: dict[str, Tensor], rows: Rows) -> None:
    """Remove the time path from `unet`, in place; from then on it reads `table` by the rows."""
    parameter = next(unet.parameters())
    for name, values in table.items():
        resnet = unet.get_submodule(name)
        resnet.time_emb_proj = _TableRow(values.to(parameter), rows)
    unet.time_embedding = _NoEmbedding()
    rows.follow(unet)
