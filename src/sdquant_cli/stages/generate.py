"""`generate`: pictures from fixed per-prompt noise, by the floating-point or the quantized UNet."""

import io
from pathlib import Path

import torch

from ..artifacts.images import draw, layout
from ..artifacts.prompts import store_embeddings, store_prompts
from ..artifacts.quant_state import execution_of, refuse_unless_simulated
from ..artifacts.workspace import (
    Plan,
    announce,
    find_state,
    inherit,
    new_setting,
    open_model,
    use_device,
)
from ..errors import UsageProblem
from ..events import SILENT, Events
from ..manifests import ImagesSpec, Setting
from ..models.guidance import halves
from ..models.load import Model
from ..models.schedule import schedule_of
from ..options.requests import GenerateRequest
from ..paths import atomic_write, check_output_folder
from ..prompts import PromptFile, read_prompts
from ..quant.rows import TOLERANCE, Rows
from ..resources import predicted as preflight
from ..store import Artifact, Store
from ..types import Engine, Execution, Kind

FP = "fp"
_SCHEDULE = ("scheduler", "steps")


def plan(request: GenerateRequest, store: Store) -> Plan:
    setting, state = _source(request, store, SILENT)
    model = open_model(setting)
    count = len(_prompts(request, model).prompts)
    calls = halves(setting.guidance_scale) * count * len(schedule_of(model.sampler(setting)).calls)
    batch = min(request.micro_batch, count)
    return Plan(
        "generate",
        {
            "images": count,
            "UNet calls": calls,
            "engine": _execution(request, state, use_device(request.device)),
            **preflight.drawing(model, setting, batch, calls, state=state),
            "disk, bytes": preflight.disk(layout(count, setting)),
        },
    )


def run(request: GenerateRequest, store: Store, events: Events = SILENT) -> Artifact:
    """Draw the prompts of a request; also as PNG files if it names an output folder."""
    check_files(request, store)
    setting, state = _source(request, store, events)
    device, model = use_device(request.device), open_model(setting)
    prompts = store_prompts(store, _prompts(request, model), events)
    embeds = store_embeddings(store, model, prompts, device, events)
    spec = ImagesSpec(
        setting=setting,
        engine=_execution(request, state, device),
        seed=request.seed,
        micro_batch=request.micro_batch,
        step_match=request.step_match if state else None,
    )
    tags = ("latest", "latest-quantized" if state else "latest-fp")
    images = draw(spec, prompts, embeds, state, store, device, events, tags=tags)
    if request.output:
        write_png(images, request.output, events)
    return images


def check_files(request: GenerateRequest, store: Store) -> None:
    """Raise UsageProblem for an output folder that cannot be written when all is done."""
    if request.output is not None:
        check_output_folder(request.output, "--output", store.url)


def _execution(request: GenerateRequest, state: Artifact | None, device: torch.device) -> Execution:
    return execution_of(request.engine, device) if state else Execution.FP


def _source(request: GenerateRequest, store: Store, events: Events) -> tuple[Setting, Artifact | None]:
    """The setting to draw with, and the quantizer state unless the floating-point model is asked for."""
    without_model = request.model_copy(update={"model": None}) if request.model == FP else request
    if request.model != FP:
        state = find_state(request.state, store)
        announce(events, {"state": state})
        if request.engine is not Engine.SIMULATED:
            refuse_unless_simulated(state, f"--engine {request.engine}")
        if request.step_match:
            if request.engine is not Engine.SIMULATED:
                raise UsageProblem(
                    f"--engine {request.engine}: packed weights come with the tables of the calibrated steps "
                    f"alone; leave --step-match out, or --engine"
                )
            return _other_steps(request, without_model, state, events), state
        _refuse_other_steps(without_model, state)
        inherit(state.facts.setting, without_model, state)
        return state.facts.setting, state
    if request.state or request.engine is not Engine.SIMULATED:
        flag = "--state" if request.state else f"--engine {request.engine}"
        raise UsageProblem(f"{flag}: has no meaning with --model fp")
    source = store.latest(Kind.QUANT_STATE) or store.latest(Kind.LATENTS)
    if source is None:
        return new_setting(without_model)[1], None
    quantized = source.manifest.kind is Kind.QUANT_STATE
    setting: Setting = source.facts.setting if quantized else source.spec.setting
    inherit(setting, without_model, source)
    return setting, None


def _other_steps(
    request: GenerateRequest, without_model: GenerateRequest, state: Artifact, events: Events
) -> Setting:
    """A state's setting with the request's schedule; says which steps stand in for others."""
    own: Setting = state.facts.setting
    schedule = {name: value for name in _SCHEDULE if (value := getattr(request, name)) is not None}
    inherit(own, without_model.model_copy(update=dict.fromkeys(_SCHEDULE)), state)
    setting = own.model_copy(update=schedule)
    model = open_model(own)
    model.rehearse(setting)
    calibrated = Rows(schedule_of(model.sampler(own)).timesteps, nearest=True)
    wanted = torch.tensor(schedule_of(model.sampler(setting)).timesteps)
    distance = (calibrated.timesteps[calibrated.find(wanted)] - wanted).abs()
    events.note(
        f"{int((distance > TOLERANCE).sum())} of {len(wanted)} timesteps were not calibrated and take the "
        f"activation quantizers of the nearest (at most {float(distance.max()):g} away)"
    )
    return setting


def _refuse_other_steps(request: GenerateRequest, state: Artifact) -> None:
    own: Setting = state.facts.setting
    for name in _SCHEDULE:
        asked, found = getattr(request, name), getattr(own, name)
        if asked is not None and asked != found:
            timesteps = schedule_of(open_model(own).sampler(own)).timesteps
            raise UsageProblem(
                f"--{name} {asked}: quant-state/{state.manifest.key} was calibrated with {found} "
                f"({len(timesteps)} timesteps, {timesteps[0]:g} ... {timesteps[-1]:g}); leave the flag out, "
                f"or add --step-match nearest"
            )


def _prompts(request: GenerateRequest, model: Model) -> PromptFile:
    path = request.prompts or model.prompts_file
    if path is None:
        raise UsageProblem(f"--prompts: {model.source} brings no prompts of its own, name a file")
    if request.prompts is None and request.column is not None:
        raise UsageProblem(f"--column {request.column}: has a meaning with --prompts alone")
    return read_prompts(path, request.limit, column=request.column, shuffle=request.shuffle)


def write_png(images: Artifact, folder: Path, events: Events) -> None:
    """One PNG per picture, named by its index."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(images.facts.images):
        file = io.BytesIO()
        Image.fromarray(images.read("image", i, i + 1)[0]).save(file, format="PNG")
        atomic_write(folder / f"{i:05d}.png", file.getvalue())
    events.note(f"{images.facts.images} PNG files in {folder}")
