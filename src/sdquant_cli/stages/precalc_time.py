"""`precalc-time`: the time path's features for every inference step, as a table (eq. 8)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..events import SILENT, Events
from ..manifests import Setting, TimeTableFacts, TimeTableSpec
from ..methods.initialise import Observed, initial_states
from ..models.layers import PROJECTION, time_layers
from ..models.load import Model
from ..models.schedule import schedule_of
from ..models.time_table import run_on_table, tabulate
from ..quant.rows import Rows
from ..quant.swap import swap
from ..store import ArraySpec, Artifact, Store
from ..types import Bits, Dtype, Kind
from .chain import Plan, announce, inherit, open_model, publish, sampler_name, up_to_date
from .requests import PrecalcTimeRequest


def plan(request: PrecalcTimeRequest, store: Store) -> Plan:
    setting = _setting(request, store, SILENT)
    schedule = schedule_of(open_model(setting).scheduler(sampler_name(setting)), setting.steps)
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

    With `bits`, of the time path rounded to nearest: what a network that keeps it would see.
    """
    timesteps = schedule_of(model.scheduler(sampler_name(setting)), setting.steps).timesteps
    widths = model.time_widths
    arrays = {
        "table": ArraySpec((len(timesteps), sum(widths)), "float32", ("row", "channel")),
        "timestep": ArraySpec((len(timesteps),), "float64", ("row",)),
    }
    spec = TimeTableSpec(
        model=setting.model,
        scheduler=setting.scheduler,
        steps=setting.steps,
        bits=str(bits) if bits else None,
    )
    draft = store.begin(spec, {}, arrays)
    if isinstance(draft, Artifact):
        return up_to_date(store, draft, events)
    unet = model.unet(Dtype.FP32)
    removed = sum(p.numel() for layer in time_layers(unet).values() for p in layer.parameters())
    if bits:
        round_time_path(unet, timesteps, bits)
    table = np.concatenate([values.numpy() for values in tabulate(unet, timesteps).values()], axis=1)
    for unit in draft.missing():
        draft.write(unit, {"table": table, "timestep": np.array(timesteps)})
    facts = TimeTableFacts(
        rows=len(timesteps),
        layers=len(time_layers(unet)),
        table_bytes=table.nbytes,
        removed_parameters=removed,
    )
    return publish(store, draft, facts)


def round_time_path(unet: nn.Module, timesteps: Sequence[float], bits: Bits) -> None:
    """Round the time path's layers in place, each with one activation range over all timesteps."""
    layers = time_layers(unet)
    observed = Observed(layers, torch.zeros(1, dtype=torch.long), 1)
    with observed.watching(torch.zeros(len(timesteps), dtype=torch.long)):
        tabulate(unet, timesteps)
    states = initial_states(observed, dict.fromkeys(layers, bits), lambda _: True)
    swap(unet, states, Rows(timesteps), weights_on_grid=False)
    unet.requires_grad_(False)


def unet_on_table(
    model: Model, dtype: Dtype, device: torch.device, artifact: Artifact
) -> tuple[nn.Module, Rows]:
    """A UNet without its time path, running on the table, and the rows that it follows."""
    unet = model.unet(dtype, str(device))
    rows = Rows(artifact.read("timestep").tolist())
    flat = torch.from_numpy(artifact.read("table")).to(device)
    names = [name.removesuffix(f".{PROJECTION}") for name in time_layers(unet) if name.endswith(PROJECTION)]
    run_on_table(unet, dict(zip(names, flat.split(model.time_widths, dim=1), strict=True)), rows)
    return unet, rows
