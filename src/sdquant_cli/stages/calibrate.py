"""`calibrate`: find a quantized UNet whose output stays that of the floating-point one."""

import dataclasses
import gc
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..artifacts.images import Images
from ..artifacts.latents import Latents, load_items
from ..artifacts.pictures import drawn_pictures, folder_digest, pictures_of_folder, pictures_of_images
from ..artifacts.quant_state import QuantState, layout, model_of
from ..artifacts.sensitivity import Sensitivity
from ..artifacts.settings import inherit
from ..artifacts.time_table import TimeTable, make_time_table
from ..artifacts.workspace import Blueprint, Plan, Workspace
from ..calibration import checkpoints
from ..calibration import output_correction as corrected
from ..calibration.bit_allocation import (
    Choice,
    attention_bits,
    check_attention,
    check_budget,
    check_ranking,
    choose_bits,
)
from ..calibration.distillation import LossTargets, Training
from ..calibration.items import Items, prediction
from ..calibration.observer import initial_states, observe
from ..calibration.phases import progress, reconstruct
from ..calibration.recipe import BatchContext, Pictures, Recipe
from ..calibration.recipes.parallel import shares
from ..calibration.resolve import check_guidance, reads_ranking, recipe_of, spec_of
from ..calibration.tabulated import TabulatedDenoiser, tabulated_denoiser
from ..calibration.teacher import CachedTeacher, Teacher, TeacherNetwork
from ..events import Events
from ..manifests import LossSpec, QuantStateFacts, QuantStateSpec, UnitFacts
from ..models.attention import open_attention
from ..models.guidance import halves
from ..models.layers import block_names, is_text_fed
from ..models.load import Model
from ..models.schedule import schedule_of
from ..models.shortcuts import values_by_part
from ..options.requests import CalibrateRequest
from ..quant.allocate import average_bits
from ..quant.finite import check_state
from ..quant.relaxing import bits_of_rows, relaxed_rows
from ..quant.state import capture, state_to_arrays
from ..quant.swap import swap
from ..resources import predicted as preflight
from ..store import Artifact, Draft
from ..types import Bits, Dtype, Select, Tables, TimePath


@dataclasses.dataclass(frozen=True)
class _Work:
    """What a request comes to."""

    request: CalibrateRequest
    recipe: Recipe
    model: Model
    spec: QuantStateSpec
    latents: Latents
    ranking: Sensitivity | None

    @property
    def bits(self) -> Bits:
        return Bits.parse(self.spec.bits)

    @property
    def losses(self) -> str:
        """The losses that count, by name."""
        if self.spec.reconstruct:
            return "units + layers" if self.spec.reconstruct.layer_weight else "units"
        if (loss := self.spec.loss) is None:
            return "none"
        weights = {"L_out": 1.0, "L_sen": loss.sensitive, "blocks": loss.blocks, "guided": loss.guided}
        return " + ".join(name for name, weight in weights.items() if weight)


def _prepare(request: CalibrateRequest, workspace: Workspace) -> _Work:
    recipe = recipe_of(request)
    latents, ranking = _inputs(request, recipe, workspace)
    wanted = request.batch_size or recipe.batch_size
    batch = min(wanted, latents.facts.latents)
    if batch < wanted:
        workspace.events.note(f"batch cut to the {batch} latents there are")
    pictures = folder_digest(request.images) if request.images else None
    setting = latents.spec.setting
    check_guidance(request, setting.guidance_scale)
    each = halves(setting.guidance_scale)
    spec = spec_of(request, recipe, batch, ranked=ranking is not None, pictures=pictures, each=each)
    model = model_of(workspace, spec, setting)
    check_attention(request, model)
    if recipe.needs_pictures:
        shares(model.sampler(setting), torch.zeros(1))  # refuses what cannot noise pictures
    return _Work(request, recipe, model, spec, latents, ranking)


def plan(request: CalibrateRequest, workspace: Workspace) -> Plan:
    """Return what `run` would do."""
    work = _prepare(request, workspace.on(request.device))
    setting, model = work.latents.spec.setting, work.model
    check_budget(request, model)
    rows = len(schedule_of(model.sampler(setting)).timesteps)
    count, cache = work.latents.facts.latents, int(request.cache_memory * 1e9)
    checkpointing = request.checkpointing
    return Plan(
        "calibrate",
        {
            "method": work.recipe.name,
            "latents": count,
            "iterations": work.spec.iterations,
            "batch": work.spec.batch_size,
            "losses": work.losses,
            **preflight.calibrating(model, setting, work.spec, count, cache, checkpointing=checkpointing),
            "disk, bytes": preflight.disk(layout(model, rows, work.spec)),
        },
    )


def run(request: CalibrateRequest, workspace: Workspace) -> QuantState:
    """Make the quantizer state of a request from the latest latents and, if any, ranking."""
    workspace = workspace.on(request.device)
    work = _prepare(request, workspace)
    latents, ranking, spec = work.latents, work.ranking, work.spec
    setting = latents.spec.setting
    model = work.model
    check_budget(request, model)
    table = make_time_table(workspace, model, setting)
    inputs: dict[str, Artifact] = {"latents": latents, "time-table": table}
    if ranking:
        inputs["sensitivity"] = ranking
    if request.time_path is TimePath.QUANTIZED:
        inputs["time-table"] = make_time_table(workspace, model, setting, work.bits)
    if work.recipe.needs_pictures and spec.train and not request.images:
        inputs["pictures"] = drawn_pictures(workspace, latents, request.seed)

    def fill(draft: Draft) -> QuantStateFacts:
        edges = Bits.parse(spec.edges) if spec.edges else None
        choice = choose_bits(request, workspace.model(setting), ranking, edges, workspace.events)
        choice = dataclasses.replace(choice, bits=values_by_part(choice.bits, list(model.layer_shapes)))
        done = _calibrated(work, choice, table, inputs, workspace, draft)
        gc.collect()  # networks and their hooks hold each other
        for unit in draft.missing():
            draft.write(unit, done.packed)
        return _facts(work, choice, done)

    return workspace.produce(QuantState, Blueprint(spec, inputs, layout(model, table.facts.rows, spec)), fill)


@dataclasses.dataclass
class _Done:
    """What a calibration comes to. No network outlives it."""

    packed: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    borrowed: int = 0  # table entries that had no data
    losses: list[float] = dataclasses.field(default_factory=list)
    units: tuple[UnitFacts, ...] = ()
    forwards: float = 0.0


def _calibrated(
    work: _Work,
    choice: Choice,
    table: TimeTable,
    inputs: dict[str, Artifact],
    workspace: Workspace,
    draft: Draft,
) -> _Done:
    spec, request, model, events = work.spec, work.request, work.model, workspace.events
    own_table = TimeTable.of(inputs["time-table"])
    setting, done = work.latents.spec.setting, _Done()
    device = workspace.device
    items = load_items(workspace, work.latents, table)
    dtype = Dtype.FP32 if spec.train or spec.reconstruct else Dtype(setting.dtype)
    tabulated = tabulated_denoiser(model, dtype, device, own_table.features())
    student = tabulated.network
    targets = _aims(work, student)
    teacher = _teacher(tabulated, model, table, own_table, spec)
    memory = _memory(work, tabulated, table, own_table, targets, items)
    bits = choice.bits | attention_bits(spec, model)
    done.borrowed = _install_quantizers(tabulated, items, bits, spec, memory, events)
    done.forwards = float(items.count)  # that observed
    if memory and memory.complete:
        teacher = None
    if spec.reconstruct:
        cache = int(request.cache_memory * 1e9)
        done.units, cost = reconstruct(tabulated, teacher, items, spec, draft, cache, events)
        done.forwards += cost
        if not spec.correction:
            teacher = None
            gc.collect()  # the weights as they were, before those that were found are packed
    if spec.train:
        pictures = None
        if request.images:
            pictures = pictures_of_folder(workspace, request.images, setting)
        elif "pictures" in inputs:
            pictures = pictures_of_images(workspace, Images.of(inputs["pictures"]))
        if request.checkpointing:
            student.enable_gradient_checkpointing()  # type: ignore[operator]
        context = _material(work, teacher, items, pictures, device)
        answers = memory if memory and memory.complete else TeacherNetwork(teacher, targets.watched)
        done.losses = _train(work, student, answers, context, targets, draft, events)
        passes = 3 if answers is memory else 4  # forward, backward, and the teacher's
        done.forwards += float(items.halves) * spec.batch_size * spec.iterations * passes
    if spec.tables is Tables.PROGRESSIVE:
        done.forwards += progress(tabulated, model, items, spec, setting, draft, events)
    state = capture(student, bits)
    check_state(state)
    done.packed = state_to_arrays(state)
    if spec.correction:
        answers = memory if memory and memory.complete else TeacherNetwork(teacher, ())
        done.packed |= corrected.estimate(student, answers, items, events)
        done.forwards += 2.0 * items.count
    return done


def _facts(work: _Work, choice: Choice, done: _Done) -> QuantStateFacts:
    parameters, losses = {name: shape.numel() for name, shape in work.model.layer_shapes.items()}, done.losses
    means = (losses[i : i + checkpoints.EVERY] for i in range(0, len(losses), checkpoints.EVERY))
    return QuantStateFacts(
        setting=work.latents.spec.setting,
        layers=len(choice.bits),
        bits={name: str(b) for name, b in choice.bits.items() if b != work.bits},
        average_bits=average_bits(choice.bits, parameters, _activation_bits(work.spec, choice, done)),
        losses=tuple(statistics.fmean(part) for part in means),
        borrowed_rows=done.borrowed,
        allocation=choice.allocation,
        frontier=choice.frontier,
        units=done.units,
        forwards=done.forwards,
        correction_slope=corrected.mean_slope(done.packed),
    )


def _activation_bits(spec: QuantStateSpec, choice: Choice, done: _Done) -> Iterator[float]:
    """Of each layer, the mean over its rows."""
    tables = np.diff(done.packed["activation_step_offset"])
    relaxed = relaxed_rows(spec.relax, int(tables.max()))
    for bits, own in zip(choice.bits.values(), tables, strict=False):  # attention's places come behind
        yield float(bits_of_rows(bits.activations, int(own), relaxed).float().mean())


def _inputs(
    request: CalibrateRequest, recipe: Recipe, workspace: Workspace
) -> tuple[Latents, Sensitivity | None]:
    """The latest latents, and the latest ranking if it ranks the same model and has a use."""
    latents = workspace.need(Latents)
    inherit(latents.spec.setting, request, latents)
    wanted = reads_ranking(request, recipe)
    ranking = workspace.latest(Sensitivity) if wanted else None
    if ranking is not None:
        ranked = workspace.input(Latents, ranking, "latents")
        if ranked.spec.setting.model.digest != latents.spec.setting.model.digest:
            workspace.events.warn("the latest sensitivity ranking is of another model and is left out")
            ranking = None
    check_ranking(request, ranking)
    workspace.announce({"latents": latents, **({"sensitivity": ranking} if ranking else {})})
    taken = latents.spec.select.rule if latents.spec.select else Select.RANDOM
    if recipe.data.select not in (Select.RANDOM, taken):
        workspace.events.note(
            f"{recipe.name} asks for latents of `sdquant sample --select {recipe.data.select}`; "
            f"these are {taken}"
        )
    if ranking is None and wanted:
        workspace.events.note(
            "no sensitivity ranking: training on L_out alone; `sdquant sensitivity` adds L_sen"
        )
    return latents, ranking


def _teacher(
    student: TabulatedDenoiser, model: Model, table: TimeTable, own_table: TimeTable, spec: QuantStateSpec
) -> Any:
    """The floating-point denoiser, sharing every weight with the student where it can; None: not needed."""
    if not (spec.train or spec.reconstruct or spec.correction):
        return None
    dtype = spec.train.teacher if spec.train else Dtype.FP32
    device = next(student.network.parameters()).device
    if dtype is not Dtype.FP32 or own_table.manifest.key != table.manifest.key:
        return tabulated_denoiser(model, dtype, device, table.features()).network
    return student.copy_sharing()


def _aims(work: _Work, network: nn.Module) -> LossTargets:
    """What training compares; nothing for a method that does not train."""
    return LossTargets(
        weights=work.spec.loss or LossSpec(sensitive=0, blocks=0, guided=0),
        sensitive=work.ranking.facts.top if work.ranking else (),
        blocks=block_names(network),
        guidance_scale=work.latents.spec.setting.guidance_scale,
    )


def _memory(
    work: _Work,
    tabulated: TabulatedDenoiser,
    table: TimeTable,
    own_table: TimeTable,
    targets: LossTargets,
    items: Items,
) -> CachedTeacher | None:
    """A teacher that remembers, where it is what is observed and every item is asked for twice or more."""
    spec = work.spec
    observed_is_teacher = own_table.manifest.key == table.manifest.key
    if not (spec.train and work.recipe.stored_items and observed_is_teacher):
        return None
    if spec.train.teacher is not Dtype.FP32 or spec.iterations * spec.batch_size < 2 * len(items):
        return None
    return CachedTeacher(TeacherNetwork(tabulated.network, targets.watched), items.count)


def _install_quantizers(
    tabulated: TabulatedDenoiser,
    items: Items,
    chosen: dict[str, Bits],
    spec: QuantStateSpec,
    memory: CachedTeacher | None,
    events: Events,
) -> int:
    """Swap every module that has bits for one initialised from data; returns borrowed table entries."""
    student, rows = tabulated.network, tabulated.rows
    if spec.attention_bits:
        open_attention(student)
    layers, device = {n: student.get_submodule(n) for n in chosen}, next(student.parameters()).device
    run = memory.run if memory else partial(prediction, student)
    observed = observe(layers, items, run, device, events)
    relaxed = relaxed_rows(spec.relax, len(rows.timesteps))
    states = initial_states(observed, chosen, is_text_fed, spec.tables, spec.ranges, relaxed, events)
    swap(student, {n: s.to(device) for n, s in states.items()}, rows, weights_on_grid=False)
    per_step = sum(len(state.activation_step) > 1 for state in states.values())
    return observed.unseen_rows * per_step


def _material(
    work: _Work, teacher: Any, items: Items, pictures: Pictures | None, device: torch.device
) -> BatchContext:
    setting, spec = work.latents.spec.setting, work.spec
    sampler = partial(work.model.sampler, setting)
    return BatchContext(
        items, spec.batch_size, spec.seed, device, teacher, sampler, setting.guidance_scale, pictures
    )


def _train(
    work: _Work,
    student: Any,
    teacher: Teacher,
    context: BatchContext,
    targets: LossTargets,
    draft: Draft,
    events: Events,
) -> list[float]:
    spec, recipe = work.spec, work.recipe
    assert spec.train is not None
    assert recipe.source is not None
    training = Training(
        student, teacher, recipe.source(context), targets, spec.train, spec.iterations, spec.seed
    )
    checkpoints.run_from_last(training, draft, events)
    return training.losses
