"""`calibrate`: find quantizers with which the UNet's output stays that of the floating-point one."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..artifacts.images import Images
from ..artifacts.latents import Latents, load_items
from ..artifacts.pictures import drawn_pictures, folder_digest, pictures_of_folder, pictures_of_images
from ..artifacts.quant_state import QuantState, layout, model_of
from ..artifacts.sensitivity import Sensitivity, latest_of_model
from ..artifacts.settings import inherit
from ..artifacts.time_table import make_time_table
from ..artifacts.workspace import Blueprint, Plan, Planned, Workspace
from ..calibration.bit_allocation import (
    Choice,
    attention_bits,
    by_split_layer,
    check_attention,
    check_budget,
    check_ranking,
    choose_bits,
)
from ..calibration.checkpoints import Scratch
from ..calibration.job import CalibrationInputs, facts_of
from ..calibration.phases import calibrate
from ..calibration.recipe import Recipe
from ..calibration.sources import Pictures, shares
from ..manifests import QuantStateFacts, QuantStateSpec, Setting
from ..methods.in_words import losses_in_words
from ..methods.number_choices import edges_of
from ..methods.resolve import check_guidance, on_family, reads_ranking, recipe_of, spec_of
from ..models.guidance import halves
from ..models.load import Model
from ..models.schedule import schedule_of
from ..options.requests import CalibrateRequest
from ..quant.format import NumberFormat
from ..resources import predicted
from ..store import Artifact, Draft
from ..types import Bits, Select, TimePath


@dataclass(frozen=True)
class _Resolved:
    """A request with its method, its inputs and the spec that they come to."""

    request: CalibrateRequest
    recipe: Recipe
    model: Model
    spec: QuantStateSpec
    latents: Latents
    sensitivity: Sensitivity | None

    @property
    def setting(self) -> Setting:
        """The setting of the latents."""
        return self.latents.spec.setting

    @property
    def parents(self) -> dict[str, Artifact]:
        """The artifacts that it reads, by role."""
        parents: dict[str, Artifact] = {"latents": self.latents}
        return parents | ({"sensitivity": self.sensitivity} if self.sensitivity else {})


def plan(request: CalibrateRequest, workspace: Workspace) -> Plan:
    """Return what `run` would do."""
    work = _resolve(request, workspace)
    setting, model, spec = work.setting, work.model, work.spec
    check_budget(request, model)
    rows = len(schedule_of(model.sampler(setting)).timesteps)
    latents, cache = work.latents.facts.latents, int(request.cache_memory * 1e9)
    needs = predicted.calibrating(model, setting, spec, latents, cache, checkpointing=request.checkpointing)
    facts = QuantStateFacts(
        setting=setting, layers=len(model.layer_shapes), bits={}, average_bits={}, losses=(), borrowed_rows=0
    )
    return Plan(
        "calibrate",
        {
            "method": work.recipe.name,
            "latents": latents,
            "iterations": spec.iterations,
            "batch": spec.batch_size,
            "losses": losses_in_words(spec),
            **needs,
            "disk, bytes": predicted.disk(layout(model, rows, spec)),
        },
        Planned(spec, facts, {role: artifact.ref for role, artifact in work.parents.items()}),
    )


def run(request: CalibrateRequest, workspace: Workspace) -> QuantState:
    """Make the quantizer state of a request from the latest latents and, if any, ranking."""
    workspace = workspace.on(request.device)
    work = _resolve(request, workspace)
    model, spec, setting = work.model, work.spec, work.setting
    check_budget(request, model)
    for line in NumberFormat.of(spec).fallbacks(model.layer_shapes):
        workspace.events.note(line)
    table = make_time_table(workspace, model, setting)
    parents: dict[str, Artifact] = {"latents": work.latents, "time-table": table}
    parents |= work.parents
    rounded_table = None
    if request.time_path is TimePath.QUANTIZED:
        rounded_table = make_time_table(workspace, model, setting, Bits.parse(spec.bits))
        parents["time-table"] = rounded_table
    images = None
    if work.recipe.needs_pictures and spec.train and not request.images:
        images = drawn_pictures(workspace, work.latents, request.seed)
        parents["pictures"] = images

    def prepare() -> tuple[Choice, CalibrationInputs]:
        choice = _choose_bits(work, workspace)
        return choice, CalibrationInputs(
            model=model,
            setting=setting,
            recipe=work.recipe,
            spec=spec,
            bits=choice.quantized | attention_bits(spec, model),
            items=load_items(workspace, work.latents, table),
            time_features=table.features(),
            rounded_time_features=rounded_table.features() if rounded_table else None,
            device=workspace.device,
            sensitive_layers=work.sensitivity.facts.top if work.sensitivity else (),
            pictures=_pictures(work, images, workspace),
            cache_bytes=int(request.cache_memory * 1e9),
            checkpointing=request.checkpointing,
        )

    def fill(draft: Draft) -> QuantStateFacts:
        choice, inputs = prepare()
        results = calibrate(inputs, Scratch(draft.scratch, draft.meter.save, workspace.events))
        for unit in draft.missing():
            draft.write(unit, results.arrays)
        return facts_of(inputs, choice, results)

    def assist() -> None:
        _, inputs = prepare()
        with TemporaryDirectory() as folder:
            calibrate(inputs, Scratch(Path(folder), lambda: None, workspace.events))

    blueprint = Blueprint(spec, parents, layout(model, table.facts.rows, spec))
    return workspace.produce(QuantState, blueprint, fill, assist=assist if spec.train else None)


def _resolve(request: CalibrateRequest, workspace: Workspace) -> _Resolved:
    recipe = recipe_of(request)
    latents = workspace.need(Latents)
    setting = latents.spec.setting
    inherit(setting, request, latents)
    sensitivity = _sensitivity(request, recipe, latents, workspace)
    _note_selection(recipe, latents, workspace)
    batch_size = _batch_size(request, recipe, latents, workspace)
    check_guidance(request, setting)
    recipe = on_family(recipe, workspace.model(setting).family)
    spec = spec_of(
        request,
        recipe,
        batch_size,
        ranked=sensitivity is not None,
        pictures=folder_digest(request.images) if request.images else None,
        each=halves(setting.guidance_scale),
    )
    model = model_of(workspace, spec, setting)
    check_attention(request, model)
    if recipe.needs_pictures:
        shares(model.sampler(setting), torch.zeros(1))  # raises for a sampler that cannot noise pictures
    return _Resolved(request, recipe, model, spec, latents, sensitivity)


def _sensitivity(
    request: CalibrateRequest, recipe: Recipe, latents: Latents, workspace: Workspace
) -> Sensitivity | None:
    """Return the latest ranking of the model if it has a use."""
    has_use = reads_ranking(request, recipe)
    ranking = latest_of_model(workspace, latents) if has_use else None
    check_ranking(request, ranking.spec if ranking else None)
    workspace.announce({"latents": latents, **({"sensitivity": ranking} if ranking else {})})
    if ranking is None and has_use:
        workspace.events.note(
            "no sensitivity ranking: training without L_sen, which `sdquant sensitivity` makes possible"
        )
    return ranking


def _note_selection(recipe: Recipe, latents: Latents, workspace: Workspace) -> None:
    """Say so if the latents were not selected as the method asks."""
    selection = latents.spec.select.rule if latents.spec.select else Select.RANDOM
    if recipe.data.select not in (Select.RANDOM, selection):
        workspace.events.note(
            f"--method {recipe.name} asks for latents of `sdquant sample --select {recipe.data.select}`; "
            f"these were selected by {selection}"
        )


def _batch_size(request: CalibrateRequest, recipe: Recipe, latents: Latents, workspace: Workspace) -> int:
    """Return the latents of an update, no more than there are."""
    batch_size, available = request.batch_size or recipe.batch_size, latents.facts.latents
    if available < batch_size:
        workspace.events.note(f"batch size reduced to {available}: only {available} latents available")
    return min(batch_size, available)


def _choose_bits(work: _Resolved, workspace: Workspace) -> Choice:
    """Return the bits of all layers of the model, its shortcuts split if the spec has them so."""
    request, ranking = work.request, None
    if work.sensitivity:
        ranking = work.sensitivity.ranking(with_errors=request.budget is not None)
    edges, model = edges_of(work.spec), workspace.model(work.setting)
    choice = choose_bits(request, model, ranking, edges, workspace.events)
    return by_split_layer(choice, work.model)


def _pictures(work: _Resolved, images: Images | None, workspace: Workspace) -> Pictures | None:
    """Return the pictures that training uses, if it does."""
    if images is not None:
        return pictures_of_images(workspace, images)
    if work.request.images and work.spec.train:
        return pictures_of_folder(workspace, work.request.images, work.setting)
    return None
