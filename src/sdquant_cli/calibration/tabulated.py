"""A denoiser without its time path: a table is looked up in its place."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..models.conditioning import Conditioning, dtype_of
from ..models.layers import projections
from ..models.load import Model
from ..models.time_table import PromptTables, run_on_prompt_tables, run_on_table
from ..quant.rows import Rows
from ..types import Dtype


@dataclass(frozen=True)
class TabulatedDenoiser:
    """A denoiser without its time path."""

    network: nn.Module
    rows: Rows  # that it follows
    prompts: PromptTables | None  # of a family whose time features are each prompt's own

    def set(self, timestep: torch.Tensor, conditioning: Conditioning) -> None:
        """Items at these timesteps (N), told this, are in hand: for running a part of the network alone."""
        self.rows.set(timestep)
        if self.prompts:
            self.prompts.set(conditioning.to(timestep.device, dtype_of(self.network)))

    def copy_sharing(self, *others: torch.Tensor) -> nn.Module:
        """The network again, with the same rows, tables and parameters."""
        shared: list[Any] = [*self.network.parameters(), *others, self.rows]
        if self.prompts:
            shared.append(self.prompts)
        return copy.deepcopy(self.network, {id(thing): thing for thing in shared})


@dataclass(frozen=True)
class TimeFeatures:
    """Time features by row: e_p of all projections side by side, or e_t where each prompt has its own."""

    timesteps: tuple[float, ...]
    values: torch.Tensor  # (rows, channels) fp32


def tabulated_denoiser(
    model: Model, dtype: Dtype, device: torch.device, features: TimeFeatures
) -> TabulatedDenoiser:
    """A denoiser that runs on the table, and the rows that it follows."""
    network = model.denoiser(dtype, str(device))
    rows = Rows(features.timesteps)
    table = features.values.to(device)
    if model.family.pooled:
        return TabulatedDenoiser(network, rows, run_on_prompt_tables(network, table, rows))
    parts = table.split(model.time_widths, dim=1)
    run_on_table(network, dict(zip(projections(network), parts, strict=True)), rows)
    return TabulatedDenoiser(network, rows, None)
