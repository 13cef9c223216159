"""`export`: a quantizer state as a pipeline directory that diffusers loads, or as a file; and `verify`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..artifacts.latents import Latents, load_items
from ..artifacts.quant_state import (
    QuantState,
    find_state,
    packed_denoiser,
    refuse_unless_packable,
    refuse_without_log_snr,
    scheduled,
)
from ..artifacts.time_table import TimeTable
from ..artifacts.workspace import Workspace
from ..errors import DamagedArtifact, MissingArtifact, UsageProblem
from ..events import SILENT, Events
from ..formats import graph, single_file
from ..formats.limits import left_out, lost
from ..formats.lowered import lowered
from ..manifests import QuantStateFacts, Setting
from ..metrics.ratios import snr
from ..models.conditioning import Conditioning
from ..models.example_call import ExampleCall
from ..models.layers import table_widths
from ..models.load import Model
from ..models.schedule import schedule_of
from ..options.base import SCHEDULE
from ..options.requests import ExportRequest
from ..paths import check_output
from ..quant.format import NumberFormat
from ..quant.rows import TOLERANCE
from ..quant.state import State
from ..runtime import components, directory, proof
from ..runtime.description import config_of, portable, recipe_of
from ..runtime.engines import choose, dequantized, engine_for
from ..runtime.network import Layout, packed_layers, use_engine
from ..runtime.whole import check_new_folder, output_folder
from ..types import Dtype, Execution, ExportFormat, Relax, StepMatch
from ..version import __version__

_FILES = (ExportFormat.SINGLE_FILE, ExportFormat.COMFYUI_INT8)
_GRAPHS = (ExportFormat.ONNX, ExportFormat.OPENVINO)
ENOUGH_DB = 30.0  # between machines codes differ where a value lies between two: 40 dB and more


def run(request: ExportRequest, workspace: Workspace) -> Path:
    """Write the directory or the file; it is there whole or not at all."""
    is_file = request.format in _FILES
    if is_file:
        _check_new_file(request.output, workspace.store.url)
    else:
        check_new_folder(request.output, workspace.store.url)
    if request.format in _GRAPHS:
        graph.need(request.format)
    state = find_state(workspace, request.state)
    refuse_unless_packable(state, "export")
    workspace.announce({"state": state})
    setting = _setting(request, state, workspace)
    if request.format not in (ExportFormat.PACKED, ExportFormat.DEQUANT):
        _check_losses(request, state, workspace)
    if is_file:
        _write_file(request, state, workspace)
        return request.output
    with output_folder(request.output) as folder:
        if request.format in _GRAPHS:
            _write_graph(folder, request.format, _Source(state, setting), workspace)
        else:
            _write(folder, request.format, _Source(state, setting), workspace)
    return request.output


@dataclass(frozen=True)
class _Source:
    """A state, and the setting that it is exported for: its own, or one of another schedule."""

    state: QuantState
    setting: Setting

    @property
    def match(self) -> StepMatch | None:
        """The way from calibrated tables to those of the setting, None if they are the same."""
        return None if self.setting == self.state.facts.setting else StepMatch.INTERPOLATE

    @property
    def facts(self) -> QuantStateFacts:
        """The state's facts, with that setting."""
        return self.state.facts.model_copy(update={"setting": self.setting})


def _setting(request: ExportRequest, state: QuantState, workspace: Workspace) -> Setting:
    """Return the state's setting with the request's schedule; raise UsageProblem where none can be chosen."""
    calibrated = state.facts.setting
    given = {name: value for name in SCHEDULE if (value := getattr(request, name)) is not None}
    if not given:
        return calibrated
    flags = " ".join(f"--{name} {value}" for name, value in sorted(given.items()))
    if state.is_for_any_schedule:
        raise UsageProblem(f"{flags}: {state.name} draws at any timestep; leave it out and set the scheduler")
    if request.format not in (ExportFormat.PACKED, *_GRAPHS):
        raise UsageProblem(f"{flags}: --format {request.format} has no tables; leave it out")
    setting = calibrated.model_copy(update=given)
    model = workspace.model(calibrated)
    model.rehearse(setting)
    refuse_without_log_snr(model, calibrated, setting)
    return setting


def _check_new_file(path: Path, store: str) -> None:
    """Raise UsageProblem for an `--output` that is there, or that is no name of a safetensors file."""
    check_output(path, "--output", store)
    if path.suffix != ".safetensors":
        raise UsageProblem(f"--output {path}: expected a name that ends in .safetensors")
    if path.exists():
        raise UsageProblem(f"--output {path}: exists; name a new file, or remove it first")


def _check_losses(request: ExportRequest, state: QuantState, workspace: Workspace) -> None:
    """Note what the format does not hold; raise UsageProblem for a loss without `--lossy`."""
    model = workspace.model(state.facts.setting)
    layers, form = state.state(model), NumberFormat.of(state.spec)
    if request.format in _GRAPHS:
        _check_inputs(request.format, model)
    if request.format in _GRAPHS and form.per_token:
        raise UsageProblem(
            f"--format {request.format}: quant-state/{state.key} has a scale for each token, found at run "
            f"time; a graph has calibrated ones: run `sdquant calibrate --activations per-step`"
        )
    losses = lost(request.format, form, state.spec.relax or Relax.NONE, layers)
    if losses and not request.lossy:
        raise UsageProblem(f"--format {request.format}: {'; '.join(losses)}; add --lossy to write it so")
    for line in [*losses, *left_out(request.format, layers)]:
        workspace.events.note(line)


def _check_inputs(form: ExportFormat, model: Model) -> None:
    """Raise UsageProblem for a model with an input that graphs do not take."""
    more = None
    if model.guidance_width is not None:
        more = "embeds its guidance scale"
    if model.family.masked:
        more = "takes a mask of its tokens"
    if more:
        raise UsageProblem(f"--format {form}: {model.source} {more}, which graphs do not have")


def _write_file(request: ExportRequest, state: QuantState, workspace: Workspace) -> None:
    model = workspace.model(state.facts.setting)
    recipe = recipe_of(request.format, state.spec, state.facts)
    int8 = request.format is ExportFormat.COMFYUI_INT8
    single_file.write(request.output, model, state.state(model), recipe, int8=int8)


def _write_graph(folder: Path, form: ExportFormat, source: _Source, workspace: Workspace) -> None:
    """Write a pipeline folder whose denoiser is a graph, and compare the graph with the network it is of."""
    state, setting = source.state, source.setting
    model = workspace.model(setting)
    numbers = scheduled(workspace, state, model, setting, source.match)
    features = numbers.table.features()
    network, table = model.denoiser(), None
    if not model.family.pooled:
        parts = features.values.split(model.time_widths, dim=1)
        table = dict(zip(table_widths(network), parts, strict=True))
    lowered(network, numbers.layers, features.timesteps, table, numbers.relaxed)
    call = ExampleCall.of(model, setting, 2, features.timesteps[0])
    denoiser = folder / model.family.folder
    with workspace.events.task("exporting", 2, "part") as task:
        graph.write(form, network, call, features.timesteps, denoiser)
        (denoiser / "config.json").write_text(json.dumps(model.config, indent=2, sort_keys=True) + "\n")
        task.advance()
        directory.write_others(model, model.sampler(setting), folder)
        directory.write_description(folder, form, state.spec, source.facts)
        task.advance()
    written = graph.load(denoiser)
    answer = torch.from_numpy(written.run(graph.inputs(call.x, call.timestep, call.conditioning)))
    for line in _verdict(form, written, float(snr(call.run(network)[None], answer[None]))):
        workspace.events.note(line)


def _verdict(form: ExportFormat, written: graph.Loaded, ratio: float) -> list[str]:
    """Return what a graph's call in its runtime says, from its SNR in dB beside the network that it is of."""
    lines = [
        f"{form} computes {written.integer} of {written.products} products with weights in integers on this "
        f"machine; signal to noise of a call beside the state's own arithmetic: {ratio:.1f} dB"
    ]
    if not ratio >= ENOUGH_DB:
        lines.append(
            f"below {ENOUGH_DB:g} dB: without VNNI, {form} overflows with 8-bit weights; run it on another "
            f"CPU, or calibrate with 7-bit weights, as in --bits w7a8"
        )
    return lines


def _write(folder: Path, form: ExportFormat, source: _Source, workspace: Workspace) -> None:
    state, setting = source.state, source.setting
    model = workspace.model(setting)
    denoiser = folder / model.family.folder
    with workspace.events.task("exporting", 3, "part") as task:
        if form is ExportFormat.PACKED:
            network, layout = packed_denoiser(workspace, state, setting, source.match)
            directory.write_packed(network, config_of(layout), denoiser)
            use_engine(network, dequantized)
        else:
            network = _dense(model, state.state(model))
            directory.write_dense(network, denoiser)
            network = network.float()
        task.advance()
        sampler = model.sampler(setting)
        directory.write_others(model, sampler, folder)
        if form is ExportFormat.PACKED and not state.is_for_any_schedule:
            _check_schedule(folder, model, sampler, layout, state)
        task.advance()
        _write_proof(folder, network, form, source, workspace)
        task.advance()


def _check_schedule(folder: Path, model: Model, sampler: Any, layout: Layout, state: QuantState) -> None:
    """Raise MissingArtifact where diffusers would draw at timesteps that the tables have no rows for."""
    again = f"quant-state/{state.manifest.key} was not calibrated for; run `sdquant sample`, then `calibrate`"
    for timestep in schedule_of(sampler).timesteps:
        if min(abs(timestep - row) for row in layout.timesteps) > TOLERANCE:
            raise MissingArtifact(f"{type(sampler).__name__} runs timestep {timestep:g}, which {again}")
    calibrated = _scheduler_fields(sampler)
    for name, value in _scheduler_fields(directory.pipeline_scheduler(model, folder)).items():
        if value != calibrated.get(name):
            raise MissingArtifact(
                f"{model.pipeline_class.__name__} runs its scheduler with {name} {value} instead of "
                f"{calibrated.get(name)}, which {again}"
            )


def _scheduler_fields(scheduler: Any) -> dict[str, Any]:
    fields = json.loads(scheduler.to_json_string())
    return {name: value for name, value in fields.items() if not name.startswith("_")}


def _dense(model: Model, state: State) -> nn.Module:
    """Return the floating-point network with its weights on their grids, fp16."""
    network = model.denoiser(Dtype.FP32)
    for name, quantizer in state.items():
        network.get_submodule(name).weight.data = quantizer.whole_weight()
    return network.half()


def _write_proof(
    folder: Path, network: nn.Module, form: ExportFormat, source: _Source, workspace: Workspace
) -> None:
    """Write what a reader checks the folder by: a stored call, recipe, card and provenance."""
    state = source.state
    x, timestep, conditioning = _call(source, workspace)
    proof.write_self_test(network, x, timestep, conditioning, folder / proof.SELF_TEST)
    directory.write_description(folder, form, state.spec, source.facts)
    provenance = {
        "sdquant": __version__,
        "state": state.ref.model_dump(mode="json"),
        "inputs": {role: ref.model_dump(mode="json") for role, ref in state.manifest.inputs.items()},
        "model": portable(state.facts.setting.model),
        "calibrated": state.manifest.provenance.model_dump(mode="json"),
    }
    proof.write_provenance(folder, provenance)


def _call(source: _Source, workspace: Workspace) -> tuple[Tensor, Tensor, Conditioning]:
    """Return the denoiser's call of the self-test: a calibrated latent, at the setting's nearest timestep."""
    state = source.state
    latents = workspace.input(Latents, state, "latents")
    items = load_items(workspace, latents, workspace.input(TimeTable, state, "time-table"), 1)
    batch = items.batch([0], torch.device("cpu"))
    timestep = batch.timestep[:1]
    if source.match is not None:
        sampler = workspace.model(source.setting).sampler(source.setting)
        own = torch.tensor(schedule_of(sampler).timesteps).to(timestep)
        timestep = own[(own - timestep).abs().argmin()][None]
    return batch.x, timestep, batch.conditioning


def verify(folder: Path, events: Events = SILENT) -> dict[str, float | str]:
    """Check digests, then the stored call on this machine's engines; return its SNR in dB by engine."""
    files = proof.check_files(folder)
    events.note(f"{files} files are as they were written")
    facts: dict[str, float | str] = {"files": files}
    tested = components.tested_parts(folder)
    if not tested or (folder / proof.SELF_TEST).exists():
        denoiser, packed = directory.load_denoiser(folder)
        for execution in _engines(denoiser, packed):
            ratio = proof.replay(denoiser, folder / proof.SELF_TEST)
            facts[f"signal to noise, dB, {execution}"] = _checked(ratio, folder, f"on engine {execution}")
    for part in tested:
        network = components.load(folder, part)
        for execution in _engines(network, packed=True):
            ratio = components.replay(network, folder, part)
            what = f"of {part} on engine {execution}"
            facts[f"signal to noise of {part}, dB, {execution}"] = _checked(ratio, folder, what)
    return facts


def _engines(network: nn.Module, packed: bool) -> Iterator[Execution]:
    """Yield the engines of this machine, the network computing with each in turn."""
    if not packed:
        yield Execution.FP
        return
    form = next(iter(packed_layers(network).values())).form
    for execution in sorted({Execution.DEQUANTIZED, choose(torch.device("cpu"), form)}):
        use_engine(network, engine_for(execution))
        yield execution


def _checked(ratio: float, folder: Path, what: str) -> float:
    """Return the SNR of a self-test, in dB; raise DamagedArtifact if it is too low."""
    if not ratio >= ENOUGH_DB:
        raise DamagedArtifact(
            f"{folder}: self-test failed {what}: SNR {ratio:.1f} dB, expected at least {ENOUGH_DB:g} dB; "
            f"this machine's libraries compute it wrongly"
        )
    return ratio
