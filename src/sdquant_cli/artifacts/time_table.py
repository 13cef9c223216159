"""Time table: time features of a schedule, computed once in fp32."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..calibration.tabulated import TimeFeatures
from ..calibration.time_path import round_time_path
from ..errors import UsageProblem
from ..manifests import Setting, TimeTableFacts, TimeTableSpec
from ..models.layers import time_layers
from ..models.load import Model
from ..models.schedule import schedule_of
from ..models.time_table import embed_timesteps, tabulate
from ..store import ArraySpec, Artifact, Draft
from ..types import Bits, Kind
from .workspace import Blueprint, Workspace


class TimeTable(Artifact[TimeTableSpec, TimeTableFacts]):
    """A stored time table."""

    KIND = Kind.TIME_TABLE

    def timesteps(self) -> tuple[float, ...]:
        """Return the timestep of each row."""
        return tuple(self.read("timestep").tolist())

    def features(self) -> TimeFeatures:
        """Return the table's values by row."""
        return TimeFeatures(self.timesteps(), torch.from_numpy(self.read("table")))


def make_time_table(
    workspace: Workspace, model: Model, setting: Setting, bits: Bits | None = None, *, quiet: bool = True
) -> TimeTable:
    """Return the time table of a model and schedule. It is always computed in fp32.

    Where the time features are each prompt's own, it holds what the timesteps bring to them. With `bits`,
    it is the table of a time path rounded to nearest: what a network that keeps its time path would compute.
    """
    if bits and model.family.pooled:
        raise UsageProblem(
            f"--time-path quantized: the time features of {model.family.name} are each prompt's own; "
            f"supported only for families with a static table"
        )
    timesteps = schedule_of(model.sampler(setting)).timesteps
    spec = TimeTableSpec(
        model=setting.model,
        scheduler=setting.scheduler,
        steps=setting.steps,
        shift_of=(setting.height, setting.width) if model.shifts_by_resolution else None,
        bits=str(bits) if bits else None,
        embedded_guidance=setting.embedded_guidance,
    )
    guidance = model.embedded_guidance(setting)

    def fill(draft: Draft) -> TimeTableFacts:
        network = model.time_path()
        layers = len(time_layers(network))
        if bits:
            round_time_path(network, timesteps, bits, guidance)
        table = _table(model, network, timesteps, guidance)
        for unit in draft.missing():
            draft.write(unit, {"table": table, "timestep": np.array(timesteps)})
        return _facts(model, layers, table)

    return workspace.produce(
        TimeTable, Blueprint(spec, {}, _layout(model, len(timesteps))), fill, quiet=quiet
    )


def _layout(model: Model, rows: int) -> dict[str, ArraySpec]:
    width = model.embedding_width if model.family.pooled else sum(model.time_widths)
    return {
        "table": ArraySpec((rows, width), "float32", ("row", "channel")),
        "timestep": ArraySpec((rows,), "float64", ("row",)),
    }


def _table(
    model: Model, network: nn.Module, timesteps: Sequence[float], guidance: Tensor | None
) -> np.ndarray:
    if model.family.pooled:
        return embed_timesteps(network, timesteps, guidance).numpy()
    parts = tabulate(network, timesteps, guidance).values()
    return np.concatenate([values.numpy() for values in parts], axis=1)


def _facts(model: Model, layers: int, table: np.ndarray) -> TimeTableFacts:
    rows = len(table)
    return TimeTableFacts(
        rows=rows,
        layers=layers,
        table_bytes=table.nbytes,
        prompt_table_bytes=4 * rows * sum(model.time_widths) if model.family.pooled else None,
        removed_parameters=model.time_parameters,
    )
