"""`generate`: pictures from fixed per-prompt noise, by the floating-point or the quantized UNet."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..artifacts.images import Drawing, Images, draw, layout
from ..artifacts.latents import Latents
from ..artifacts.prompts import planned_prompts, store_prompts
from ..artifacts.quant_state import (
    QuantState,
    execution_of,
    find_state,
    refuse_unless_packable,
    refuse_without_log_snr,
)
from ..artifacts.settings import check_sides, guidance_fields, inherit, new_setting
from ..artifacts.text_embeds import store_embeddings
from ..artifacts.workspace import Plan, Planned, Workspace
from ..errors import UsageProblem
from ..events import Events
from ..manifests import ImagesFacts, ImagesSpec, Setting
from ..models.guidance import halves
from ..models.load import Model
from ..models.schedule import schedule_of
from ..options.requests import GenerateRequest
from ..paths import atomic_write, check_output_folder
from ..prompts import PromptFile, read_prompts
from ..quant.rows import TOLERANCE, Rows
from ..ranks import current
from ..resources import predicted
from ..resources.fitting import micro_batch
from ..types import Engine, Execution, StepMatch

FP = "fp"
_SCHEDULE, _SIZE = ("scheduler", "steps"), ("height", "width")
_DRAWN = (*_SCHEDULE, "guidance_scale", *_SIZE)


@dataclass(frozen=True)
class _Source:
    """The model that draws: its setting, and a quantizer state unless it is the floating-point model."""

    setting: Setting
    state: QuantState | None = None

    def execution(self, request: GenerateRequest, device: torch.device) -> Execution:
        if self.state is None:
            return Execution.FP
        if request.step_match is StepMatch.NEAREST:  # packed weights come with the rows of all their steps
            return Execution.SIMULATED
        return execution_of(self.state, request.engine, device)

    @property
    def rounding(self) -> predicted.Rounding:
        """The rounding that takes memory in a call."""
        attention = self.state.spec.attention_bits if self.state else None
        return predicted.Rounding(quantized=self.state is not None, attention=attention)

    @property
    def tags(self) -> tuple[str, str]:
        return "latest", "latest-quantized" if self.state else "latest-fp"


def plan(request: GenerateRequest, workspace: Workspace) -> Plan:
    """Return what `run` would do."""
    workspace = workspace.on(request.device)
    source = _source(request, workspace)
    setting, model = source.setting, workspace.model(source.setting)
    prompts = _prompts(request, model)
    count = len(prompts.prompts)
    calls = halves(setting.guidance_scale) * count * len(schedule_of(model.sampler(setting)).calls)
    spec = _spec(request, source, workspace)
    batch = min(spec.micro_batch, count)
    return Plan(
        "generate",
        {
            "images": count,
            "UNet calls": calls,
            "engine": spec.engine,
            **predicted.drawing(model, setting, batch, calls, source.rounding),
            "disk, bytes": predicted.disk(layout(count, setting)),
        },
        _planned(spec, source, prompts),
    )


def _planned(spec: ImagesSpec, source: _Source, prompts: PromptFile) -> Planned:
    inputs = {"prompts": planned_prompts(prompts)}
    if source.state:
        inputs["state"] = source.state.ref
    return Planned(spec, ImagesFacts(images=len(prompts.prompts)), inputs, source.tags)


def run(request: GenerateRequest, workspace: Workspace) -> Images:
    """Draw the prompts of a request; also as PNG files if it names an output folder."""
    check_files(request, workspace)
    workspace = workspace.on(request.device)
    source = _source(request, workspace)
    spec = _spec(request, source, workspace)
    model = workspace.model(source.setting)
    prompts = store_prompts(workspace, _prompts(request, model))
    drawing = Drawing(spec, prompts, store_embeddings(workspace, model, prompts), source.state)
    images = draw(workspace, drawing, source.tags)
    if request.output and current().is_first:
        write_png(images, request.output, workspace.events)
    return images


def _spec(request: GenerateRequest, source: _Source, workspace: Workspace) -> ImagesSpec:
    setting = source.setting
    model = workspace.model(setting)
    needed = partial(predicted.bytes_of_a_call, model, setting, rounding=source.rounding)
    return ImagesSpec(
        setting=setting,
        engine=source.execution(request, workspace.device),
        seed=request.seed,
        micro_batch=micro_batch(request.micro_batch, workspace.device, needed, workspace.events),
        step_match=request.step_match if source.state else None,
    )


def check_files(request: GenerateRequest, workspace: Workspace) -> None:
    """Raise UsageProblem for an output folder that cannot be written when all is done."""
    if request.output is not None:
        check_output_folder(request.output, "--output", workspace.store.url)


def _source(request: GenerateRequest, workspace: Workspace) -> _Source:
    if request.model == FP:
        return _floating_point(request, workspace)
    return _quantized(request, workspace)


def _floating_point(request: GenerateRequest, workspace: Workspace) -> _Source:
    """Return the setting of the latest state or latents, or where there are none that of the request."""
    if request.state or request.engine is not Engine.AUTO:
        flag = "--state" if request.state else f"--engine {request.engine}"
        raise UsageProblem(f"{flag}: not supported with --model fp")
    request = request.model_copy(update={"model": None})
    if (state := workspace.latest(QuantState)) is not None:
        inherit(state.facts.setting, request, state)
        return _Source(state.facts.setting)
    if (latents := workspace.latest(Latents)) is not None:
        inherit(latents.spec.setting, request, latents)
        return _Source(latents.spec.setting)
    return _Source(new_setting(request, workspace)[1])


def _quantized(request: GenerateRequest, workspace: Workspace) -> _Source:
    state = find_state(workspace, request.state)
    workspace.announce({"state": state})
    if state.is_for_any_schedule:
        return _Source(_any_setting(request, state, workspace), state)
    _refuse_packed(request, state)
    model = workspace.model(state.facts.setting)
    sizes = () if model.shifts_by_resolution else _SIZE  # where a size decides timesteps, it is calibrated
    if request.step_match:
        setting = _free(request, state, model, (*_SCHEDULE, *sizes))
        model.rehearse(setting)
        if request.step_match is StepMatch.INTERPOLATE:
            refuse_without_log_snr(model, state.facts.setting, setting)
        workspace.events.note(_stand_ins(model, state.facts.setting, setting, request.step_match))
        return _Source(setting, state)
    _refuse_other_steps(request, state, workspace)
    return _Source(_free(request, state, model, sizes), state)


def _free(request: GenerateRequest, state: QuantState, model: Model, names: Sequence[str]) -> Setting:
    """Return a state's setting with what a request says of `names`, which no table belongs to."""
    given = {name: value for name in names if (value := getattr(request, name)) is not None}
    inherit(state.facts.setting, request.model_copy(update=dict.fromkeys(names)), state)
    if "guidance_scale" in given:
        given |= guidance_fields(model, given["guidance_scale"])
    setting = state.facts.setting.model_copy(update=given)
    check_sides(model, height=setting.height, width=setting.width)
    return setting


def _refuse_packed(request: GenerateRequest, state: QuantState) -> None:
    """Raise UsageProblem if packed weights are requested of what they cannot compute."""
    if request.engine in (Engine.AUTO, Engine.SIMULATED):
        return
    refuse_unless_packable(state, f"--engine {request.engine}")
    if request.step_match is StepMatch.NEAREST:
        raise UsageProblem(
            f"--engine {request.engine}: packed weights come with the tables of the calibrated steps "
            f"alone; leave --step-match out, or --engine, or take --step-match interpolate"
        )


def _any_setting(request: GenerateRequest, state: QuantState, workspace: Workspace) -> Setting:
    """Return the request's setting, for a state that has no tables: any schedule and size."""
    if request.step_match:
        raise UsageProblem(
            f"--step-match {request.step_match}: has no effect, since {state.name} draws at any timestep; "
            f"leave the flag out"
        )
    _refuse_packed(request, state)
    model = workspace.model(state.facts.setting)
    setting = _free(request, state, model, _DRAWN)
    if setting != state.facts.setting:
        model.rehearse(setting)
    return setting


def _stand_ins(model: Model, calibrated: Setting, setting: Setting, match: StepMatch | None) -> str:
    """Return a line that says how many timesteps were not calibrated, and what they take instead."""
    rows = Rows(schedule_of(model.sampler(calibrated)).timesteps, nearest=True)
    timesteps = torch.tensor(schedule_of(model.sampler(setting)).timesteps)
    distance = (rows.timesteps[rows.find(timesteps)] - timesteps).abs()
    taken = "the activation quantizers of the nearest"
    if match is StepMatch.INTERPOLATE:
        taken = "activation quantizers between those of their neighbours"
    return (
        f"{int((distance > TOLERANCE).sum())} of {len(timesteps)} timesteps were not calibrated and take "
        f"{taken} (at most {float(distance.max()):g} away)"
    )


def _refuse_other_steps(request: GenerateRequest, state: QuantState, workspace: Workspace) -> None:
    setting = state.facts.setting
    for name in _SCHEDULE:
        requested, calibrated = getattr(request, name), getattr(setting, name)
        if requested is not None and requested != calibrated:
            timesteps = schedule_of(workspace.model(setting).sampler(setting)).timesteps
            raise UsageProblem(
                f"--{name} {requested}: quant-state/{state.key} was calibrated with {calibrated} "
                f"({len(timesteps)} timesteps, {timesteps[0]:g} ... {timesteps[-1]:g}); leave the flag out, "
                f"or add --step-match nearest or interpolate"
            )


def _prompts(request: GenerateRequest, model: Model) -> PromptFile:
    path = request.prompts or model.prompts_file
    if path is None:
        raise UsageProblem(f"--prompts: {model.source} has no built-in prompts; pass --prompts FILE")
    if request.prompts is None and request.column is not None:
        raise UsageProblem(f"--column {request.column}: requires --prompts")
    return read_prompts(path, request.limit, column=request.column, shuffle=request.shuffle)


def write_png(images: Images, folder: Path, events: Events) -> None:
    """Write one PNG per picture, named by its index."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(images.facts.images):
        file = io.BytesIO()
        Image.fromarray(images.read("image", i, i + 1)[0]).save(file, format="PNG")
        atomic_write(folder / f"{i:05d}.png", file.getvalue())
    events.note(f"{images.facts.images} PNG files in {folder}")
