"""`precalc-time`: the time path's features for every inference step, as a table (eq. 8)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import UsageProblem
from ..events import SILENT, Events
from ..manifests import Setting, TimeTableFacts, TimeTableSpec
from ..methods.initialise import Observed, initial_states
from ..models.condition import Condition, dtype_of
from ..models.layers import projections, time_layers
from ..models.load import Model
from ..models.schedule import schedule_of
from ..models.time_table import (
    PromptTables,
    embed_timesteps,
    run_on_prompt_tables,
    run_on_table,
    tabulate,
)
from ..quant.rows import Rows
from ..quant.swap import swap
from ..store import ArraySpec, Artifact, Store
from ..types import Bits, Dtype, Kind
from .chain import Plan, announce, inherit, open_model, publish, up_to_date
from .requests import PrecalcTimeRequest


def plan(request: PrecalcTimeRequest, store: Store) -> Plan:
    setting = _setting(request, store, SILENT)
    schedule = schedule_of(open_model(setting).sampler(setting))
    return Plan("precalc-time", {"rows": len(schedule.timesteps)})


def run(request: PrecalcTimeRequest, store: Store, events: Events = SILENT) -> Artifact:
    """The time table for the schedule of the latest latents."""
    setting = _setting(request, store, events)
    return for_setting(open_model(setting), setting, store, events)


def _setting(request: PrecalcTimeRequest, store: Store, events: Events) -> Setting:
    latents = store.need(Kind.LATENTS)
    announce(events, {"latents": latents})
    setting: Setting = latents.spec.setting
    inherit(setting, request, latents)
    return setting


def for_setting(
    model: Model, setting: Setting, store: Store, events: Events = SILENT, bits: Bits | None = None
) -> Artifact:
    """The time table of a model and schedule, made where it is absent. Always computed in fp32.

    Of a family whose time features are each prompt's own it holds what the timesteps bring to them.
    With `bits`, of the time path rounded to nearest: what a network that keeps it would see.
    """
    if bits and model.family.pooled:
        raise UsageProblem(
            f"--time-path quantized: the time features of {model.family.name} are each prompt's own; "
            f"taken by families with a static table"
        )
    timesteps = schedule_of(model.sampler(setting)).timesteps
    width = model.embedding_width if model.family.pooled else sum(model.time_widths)
    arrays = {
        "table": ArraySpec((len(timesteps), width), "float32", ("row", "channel")),
        "timestep": ArraySpec((len(timesteps),), "float64", ("row",)),
    }
    spec = TimeTableSpec(
        model=setting.model,
        scheduler=setting.scheduler,
        steps=setting.steps,
        shift_of=(setting.height, setting.width) if model.shifts_by_resolution else None,
        bits=str(bits) if bits else None,
    )
    draft = store.begin(spec, {}, arrays)
    if isinstance(draft, Artifact):
        return up_to_date(store, draft, events)
    network = model.time_path()
    layers = len(time_layers(network))
    if bits:
        round_time_path(network, timesteps, bits)
    if model.family.pooled:
        table = embed_timesteps(network, timesteps).numpy()
    else:
        table = np.concatenate([values.numpy() for values in tabulate(network, timesteps).values()], axis=1)
    for unit in draft.missing():
        draft.write(unit, {"table": table, "timestep": np.array(timesteps)})
    per_prompt = 4 * len(timesteps) * sum(model.time_widths) if model.family.pooled else None
    facts = TimeTableFacts(
        rows=len(timesteps),
        layers=layers,
        table_bytes=table.nbytes,
        prompt_table_bytes=per_prompt,
        removed_parameters=model.time_parameters,
    )
    return publish(store, draft, facts)


def round_time_path(network: nn.Module, timesteps: Sequence[float], bits: Bits) -> None:
    """Round the time path's layers in place, each with one activation range over all timesteps."""
    layers = time_layers(network)
    observed = Observed(layers, torch.zeros(1, dtype=torch.long), 1)
    with observed.watching(torch.zeros(len(timesteps), dtype=torch.long)):
        tabulate(network, timesteps)
    states = initial_states(observed, dict.fromkeys(layers, bits), lambda _: True)
    swap(network, states, Rows(timesteps), weights_on_grid=False)
    network.requires_grad_(False)


@dataclass(frozen=True)
class OnTable:
    """A denoiser without its time path."""

    network: nn.Module
    rows: Rows  # that it follows
    prompts: PromptTables | None  # of a family whose time features are each prompt's own

    def set(self, timestep: torch.Tensor, condition: Condition) -> None:
        """Items at these timesteps (N), told this, are in hand: for running a part of the network alone."""
        self.rows.set(timestep)
        if self.prompts:
            self.prompts.set(condition.to(timestep.device, dtype_of(self.network)))

    def copy_sharing(self, *others: torch.Tensor) -> nn.Module:
        """The network again, with the same rows, tables and parameters."""
        shared: list[Any] = [*self.network.parameters(), *others, self.rows]
        if self.prompts:
            shared.append(self.prompts)
        return copy.deepcopy(self.network, {id(thing): thing for thing in shared})


def denoiser_on_table(model: Model, dtype: Dtype, device: torch.device, artifact: Artifact) -> OnTable:
    """A denoiser that runs on the table, and the rows that it follows."""
    network = model.denoiser(dtype, str(device))
    rows = Rows(artifact.read("timestep").tolist())
    table = torch.from_numpy(artifact.read("table")).to(device)
    if model.family.pooled:
        return OnTable(network, rows, run_on_prompt_tables(network, table, rows))
    parts = table.split(model.time_widths, dim=1)
    run_on_table(network, dict(zip(projections(network), parts, strict=True)), rows)
    return OnTable(network, rows, None)
