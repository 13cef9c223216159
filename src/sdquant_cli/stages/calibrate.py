"""`calibrate`: find a quantized UNet whose output stays that of the floating-point one."""

import dataclasses
import pickle
import statistics
from pathlib import Path

import torch
from torch import nn

from ..errors import EnvironmentProblem
from ..events import SILENT, Events
from ..manifests import QuantStateFacts, QuantStateSpec
from ..methods.initialise import Ranges, all_batches, initial_states
from ..methods.items import Items
from ..methods.serial_to_parallel import Training
from ..models.layers import is_text_fed, quantizable_layers
from ..models.load import Model
from ..quant.allocate import average_bits
from ..quant.modules import LayerState
from ..quant.rows import Rows
from ..quant.state import FIELDS, capture, pack
from ..quant.swap import swap
from ..store import ArraySpec, Artifact, Draft, Store
from ..types import Bits, Dtype, Kind
from .bits import check_budget, check_ranking, choose_bits
from .calibration_data import load_items
from .chain import Plan, announce, inherit, open_model, publish, refs, up_to_date, use_device
from .precalc_time import for_setting, unet_on_table
from .requests import CalibrateRequest

METHOD = "serial-to-parallel"
WEIGHT_RATE, STEP_RATE = 5e-5, 2e-6
CHECKPOINT_EVERY = 50  # iterations; at most this much is done again after a kill
KEPT_CHECKPOINTS = 2


def plan(request: CalibrateRequest, store: Store) -> Plan:
    latents, ranking = _inputs(request, store, SILENT)
    check_budget(request, open_model(latents.spec.setting))
    return Plan(
        "calibrate",
        {
            "latents": latents.facts.latents,
            "iterations": request.iterations,
            "batch": min(request.batch_size, latents.facts.latents),
            "losses": "L_out + L_sen" if ranking else "L_out",
        },
    )


def run(request: CalibrateRequest, store: Store, events: Events = SILENT) -> Artifact:
    """Make the quantizer state of a request from the latest latents and, if any, ranking."""
    bits = Bits.parse(request.bits)
    latents, ranking = _inputs(request, store, events)
    setting = latents.spec.setting
    batch = min(request.batch_size, latents.facts.latents)
    if batch < request.batch_size:
        events.note(f"batch cut to the {batch} latents there are")
    spec = QuantStateSpec(
        method=METHOD,
        bits=str(bits),
        mixed=request.mixed,
        budget=request.budget,
        iterations=request.iterations,
        batch_size=batch,
        weight_rate=WEIGHT_RATE,
        step_rate=STEP_RATE,
        seed=request.seed,
    )
    device, model = use_device(request.device), open_model(setting)
    check_budget(request, model)
    table = for_setting(model, setting, store)
    inputs = {"latents": latents, "time-table": table} | ({"sensitivity": ranking} if ranking else {})
    draft = store.begin(spec, refs(inputs), _layout(model, table.facts.rows))
    if isinstance(draft, Artifact):
        return up_to_date(store, draft, events)
    top = ranking.facts.top if ranking else ()
    choice = choose_bits(request, model, ranking, events)
    chosen = choice.bits
    items = load_items(store, latents, table)
    student, rows = unet_on_table(model, Dtype.FP32, device, table)
    borrowed = _install_quantizers(student, rows, items, chosen, device, events)
    losses: list[float] = []
    if request.iterations:
        teacher, _ = unet_on_table(model, Dtype.FP32, device, table)
        training = Training(student, teacher, items, batch, request.seed, top, WEIGHT_RATE, STEP_RATE)
        losses = _train(training, request.iterations, draft, events)
    for unit in draft.missing():
        draft.write(unit, pack(capture(student, chosen)))
    parameters = {name: shape.numel() for name, shape in model.layer_shapes.items()}
    facts = QuantStateFacts(
        setting=setting,
        layers=len(chosen),
        bits={name: str(b) for name, b in chosen.items() if b != bits},
        average_bits=average_bits(chosen, parameters),
        losses=tuple(
            statistics.fmean(losses[i : i + CHECKPOINT_EVERY])
            for i in range(0, len(losses), CHECKPOINT_EVERY)
        ),
        borrowed_rows=borrowed,
        allocation=choice.allocation,
        frontier=choice.frontier,
    )
    return publish(store, draft, facts)


def _inputs(request: CalibrateRequest, store: Store, events: Events) -> tuple[Artifact, Artifact | None]:
    """The latest latents, and the latest ranking if it ranks the same model."""
    latents = store.need(Kind.LATENTS)
    inherit(latents.spec.setting, request, latents)
    ranking = store.latest(Kind.SENSITIVITY)
    if ranking is not None:
        ranked = store.follow(ranking.manifest.inputs["latents"])
        if ranked.spec.setting.model.digest != latents.spec.setting.model.digest:
            events.warn("the latest sensitivity ranking is of another model and is left out")
            ranking = None
    check_ranking(request, ranking)
    announce(events, {"latents": latents} | ({"sensitivity": ranking} if ranking else {}))
    if ranking is None:
        events.note("no sensitivity ranking: training on L_out alone; `sdquant sensitivity` adds L_sen")
    return latents, ranking


def _layout(model: Model, rows: int) -> dict[str, ArraySpec]:
    shapes = model.layer_shapes
    table = sum(1 if is_text_fed(name) else rows for name in shapes)
    sizes = {
        "codes": sum(shape.numel() for shape in shapes.values()),
        "weight_step": sum(shape[0] for shape in shapes.values()),
        "activation_step": table,
        "activation_zero": table,
    }
    layout = {name: ArraySpec((size,), FIELDS[name], ("value",)) for name, size in sizes.items()}
    layout |= {f"{name}_offset": ArraySpec((len(shapes) + 1,), "int64", ("boundary",)) for name in sizes}
    return layout | {"bits": ArraySpec((len(shapes), 2), "int64", ("layer", "weights_activations"))}


def _install_quantizers(
    student: nn.Module,
    rows: Rows,
    items: Items,
    chosen: dict[str, Bits],
    device: torch.device,
    events: Events,
) -> int:
    """Swap every quantizable layer for one initialised from data; returns borrowed table entries."""
    layers = quantizable_layers(student)
    ranges = Ranges(layers, len(rows.timesteps))
    batches = list(all_batches(items, 16, torch.device("cpu")))
    with events.task("observing activations", len(batches), "batch") as task:
        for batch in batches:
            moved = type(batch)(
                batch.x.to(device), batch.timestep.to(device), batch.row, batch.context.to(device)
            )
            ranges.observe(student, moved)
            task.advance()
    states = initial_states(layers, ranges, chosen, is_text_fed)
    swap(student, {n: _to_device(s, device) for n, s in states.items()}, rows, weights_on_grid=False)
    per_step = sum(not is_text_fed(name) for name in layers)
    return ranges.unseen_rows * per_step


def _to_device(state: LayerState, device: torch.device) -> LayerState:
    tensors = ("weight_step", "activation_step", "activation_zero")
    return dataclasses.replace(state, **{name: getattr(state, name).to(device) for name in tensors})


def _train(training: Training, iterations: int, draft: Draft, events: Events) -> list[float]:
    """Run to `iterations`, from the last checkpoint if there is one."""
    _resume(training, draft.scratch, events)
    with events.task("calibrating", iterations, "iteration") as task:
        task.advance(training.iteration)
        while training.iteration < iterations:
            training.step()
            task.advance()
            if training.iteration % CHECKPOINT_EVERY == 0 and training.iteration < iterations:
                _save_checkpoint(training, draft.scratch)
    return training.losses


def _resume(training: Training, folder: Path, events: Events) -> None:
    """Go on from the newest checkpoint that can be read, if there is any."""
    for path in sorted(folder.glob("*.pt"), reverse=True):
        try:
            training.load_state_dict(torch.load(path, weights_only=True))
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            events.warn(f"{path} is damaged and is left out")
        else:
            events.note(f"resuming at iteration {training.iteration}")
            return


def _save_checkpoint(training: Training, folder: Path) -> None:
    path = folder / f"{training.iteration:08d}.pt"
    partial = path.with_suffix(".partial")
    try:
        torch.save(training.state_dict(), partial)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise EnvironmentProblem(
            f"{partial}: {' '.join(str(error).split())}; run again once it can be written"
        ) from None
    partial.replace(path)
    for old in sorted(folder.glob("*.pt"))[:-KEPT_CHECKPOINTS]:
        old.unlink()
