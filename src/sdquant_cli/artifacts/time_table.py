"""Time table: what the timesteps of a schedule bring to the denoiser, computed once in fp32."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..calibration.observer import Observed, initial_states
from ..calibration.tabulated import TimeTable
from ..errors import UsageProblem
from ..events import SILENT, Events
from ..manifests import Setting, TimeTableFacts, TimeTableSpec
from ..models.layers import time_layers
from ..models.load import Model
from ..models.schedule import schedule_of
from ..models.time_table import embed_timesteps, tabulate
from ..quant.rows import Rows
from ..quant.swap import swap
from ..store import ArraySpec, Artifact, Store
from ..types import Bits
from .workspace import publish, up_to_date


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


def read_table(artifact: Artifact) -> TimeTable:
    """The table of an artifact."""
    return TimeTable(tuple(artifact.read("timestep").tolist()), torch.from_numpy(artifact.read("table")))
