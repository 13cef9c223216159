"""A denoiser whose time path is replaced by a lookup in a table."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from ..models.conditioning import Conditioning, dtype_of
from ..models.layers import table_widths
from ..models.load import Model
from ..models.time_table import PromptTables, run_on_prompt_tables, run_on_table
from ..quant.rows import Rows
from ..types import Dtype


@dataclass(frozen=True)
class TabulatedDenoiser:
    """A denoiser without its time path."""

    network: nn.Module
    rows: Rows  # the network's calls set them
    prompts: PromptTables | None  # in a family whose time features depend on the prompt

    def set(self, timestep: torch.Tensor, conditioning: Conditioning) -> None:
        """Set the timesteps (N) and the conditioning of a batch, to run a part of the network alone."""
        self.rows.set(timestep)
        if self.prompts:
            self.prompts.set(conditioning.to(timestep.device, dtype_of(self.network)))

    def copy_sharing(self) -> nn.Module:
        """Return a copy of the network with the same rows, tables and parameters."""
        shared: list[object] = [*self.network.parameters(), self.rows]
        if self.prompts:
            shared.append(self.prompts)
        return copy.deepcopy(self.network, {id(thing): thing for thing in shared})


@dataclass(frozen=True)
class TimeFeatures:
    """Time features by row: e_p of all projections side by side, or e_t where they depend on the prompt."""

    timesteps: tuple[float, ...]
    values: torch.Tensor  # (rows, channels) fp32


def tabulated_denoiser(
    model: Model, dtype: Dtype, device: torch.device, features: TimeFeatures
) -> TabulatedDenoiser:
    """Load a model's denoiser and let it read its time features from a table."""
    network = model.denoiser(dtype, str(device))
    rows = Rows(features.timesteps)
    table = features.values.to(device)
    if model.family.pooled:
        return TabulatedDenoiser(network, rows, run_on_prompt_tables(network, table, rows))
    parts = table.split(model.time_widths, dim=1)
    run_on_table(network, dict(zip(table_widths(network), parts, strict=True)), rows)
    return TabulatedDenoiser(network, rows, None)
