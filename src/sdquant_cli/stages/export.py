"""`export`: a quantizer state as a pipeline directory that diffusers loads; and `verify` of one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from ..artifacts.latents import Latents, load_items
from ..artifacts.quant_state import QuantState, find_state, packed_denoiser, refuse_unless_simulated
from ..artifacts.time_table import TimeTable
from ..artifacts.workspace import Workspace
from ..errors import DamagedArtifact, EnvironmentProblem, MissingArtifact, UsageProblem
from ..events import SILENT, Events
from ..manifests import ModelRef, QuantStateSpec
from ..models.load import Model
from ..models.schedule import schedule_of
from ..options.requests import ExportRequest
from ..paths import check_output_folder
from ..quant.rows import TOLERANCE
from ..quant.state import State
from ..runtime import directory, proof
from ..runtime.engines import choose, dequantized, engine_for
from ..runtime.network import Layout, use_engine
from ..runtime.plugin import SdquantConfig
from ..runtime.whole import whole_folder
from ..types import Dtype, Execution, ExportFormat
from ..version import __version__

ENOUGH_DB = 30.0  # between machines codes differ where a value lies between two: 40 dB and more


def run(request: ExportRequest, workspace: Workspace) -> Path:
    """Write the directory; it is there whole or not at all."""
    check_output_folder(request.output, "--output", workspace.store.url)
    state = find_state(workspace, request.state)
    refuse_unless_simulated(state, "export")
    if request.output.exists() and (not request.output.is_dir() or any(request.output.iterdir())):
        raise UsageProblem(f"--output {request.output}: exists; name a new folder, or remove it first")
    workspace.announce({"state": state})
    try:
        with whole_folder(request.output) as folder:
            _write(folder, request.format, state, workspace)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise EnvironmentProblem(f"--output {request.output}: {reason}; nothing was left there") from None
    return request.output


def _write(folder: Path, form: ExportFormat, state: QuantState, workspace: Workspace) -> None:
    setting = state.facts.setting
    model = workspace.model(setting)
    denoiser = folder / model.family.folder
    with workspace.events.task("exporting", 3, "part") as task:
        if form is ExportFormat.PACKED:
            network, layout = packed_denoiser(workspace, state, setting)
            directory.write_packed(network, config_of(layout, state.spec), denoiser)
            use_engine(network, dequantized)
        else:
            network = _dense(model, state.state(model))
            directory.write_dense(network, denoiser)
            network = network.float()
        task.advance()
        sampler = model.sampler(setting)
        directory.write_others(model, sampler, folder)
        if form is ExportFormat.PACKED:
            _check_schedule(folder, model, sampler, layout, state)
        task.advance()
        _write_proof(folder, network, form, state, workspace)
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


def config_of(layout: Layout, spec: QuantStateSpec) -> SdquantConfig:
    """What config.json says of the layout: bits by layer only where they are not the most frequent ones."""
    usual, _ = Counter(map(str, layout.bits.values())).most_common(1)[0]
    layers: dict[str, list[str]] = {}
    for name, bits in layout.bits.items():
        if str(bits) != usual:
            layers.setdefault(str(bits), []).append(name)
    return SdquantConfig(
        bits=usual,
        layers=layers,
        timesteps=list(layout.timesteps),
        tables=spec.tables.value,
        time_table=layout.time_table,
        relax=layout.relax.value,
        made_with=__version__,
    )


def _dense(model: Model, state: State) -> Any:
    """The floating-point network with its weights on their grids, fp16."""
    network: Any = model.denoiser(Dtype.FP32)
    for name, layer in state.items():
        network.get_submodule(name).weight.data = layer.weight()
    return network.half()


def _write_proof(
    folder: Path, network: nn.Module, form: ExportFormat, state: QuantState, workspace: Workspace
) -> None:
    inputs = state.manifest.inputs
    latents = workspace.input(Latents, state, "latents")
    items = load_items(workspace, latents, workspace.input(TimeTable, state, "time-table"), 1)
    batch = items.batch([0], torch.device("cpu"))
    first = batch.timestep[:1]
    proof.write_self_test(network, batch.x, first, batch.conditioning, folder / proof.SELF_TEST)
    model = _without_folders(state.facts.setting.model)
    recipe = {
        "format": str(form),
        "setting": {**state.facts.setting.model_dump(mode="json"), "model": model},
        "calibration": state.spec.model_dump(mode="json"),
        "average_bits": state.facts.average_bits,
        "bits": state.facts.bits,  # of layers that differ from the calibration's
    }
    (folder / directory.RECIPE).write_text(json.dumps(recipe, indent=1) + "\n")
    (folder / directory.CARD).write_text(_card(form, state))
    provenance = {
        "sdquant": __version__,
        "state": state.ref.model_dump(mode="json"),
        "inputs": {role: ref.model_dump(mode="json") for role, ref in inputs.items()},
        "model": model,
        "calibrated": state.manifest.provenance.model_dump(mode="json"),
    }
    proof.write_provenance(folder, provenance)


def _without_folders(ref: ModelRef) -> dict[str, Any]:
    """A model's reference, of local files their names alone: the exported folder goes to others."""
    fields = ref.model_dump(mode="json", exclude_none=True)
    local = {n: Path(v).name for n, v in fields.items() if isinstance(v, str) and Path(v).exists()}
    return fields | local


def _card(form: ExportFormat, state: QuantState) -> str:
    setting, spec = state.facts.setting, state.spec
    hub_id = setting.model.source.count("/") == 1 and not Path(setting.model.source).exists()
    base = [f"base_model: {setting.model.source}", "base_model_relation: quantized"] if hub_id else []
    header = ["---", "library_name: diffusers", *base, f"tags: [sdquant, {spec.bits}]", "---"]
    needs = ["import sdquant_cli  # pip install sdquant"] if form is ExportFormat.PACKED else []
    bits = ", ".join(f"{value:.2f} bits of {name}" for name, value in state.facts.average_bits.items())
    return "\n".join(
        [
            *header,
            "",
            f"# {Path(setting.model.source).stem}, {spec.bits}",
            "",
            f"Quantized by sdquant {__version__}: {spec.method}, {spec.iterations} iterations; {bits}.",
            f"Calibrated for {setting.scheduler} with {setting.steps} steps; other timesteps are refused."
            if form is ExportFormat.PACKED
            else f"Weights on their grids as fp16, activations not rounded; for {setting.scheduler}.",
            "",
            "```python",
            *needs,
            "from diffusers import DiffusionPipeline",
            "",
            "pipeline = DiffusionPipeline.from_pretrained(FOLDER)",
            f"pipeline(PROMPT, num_inference_steps={setting.steps}, "
            f"guidance_scale={setting.guidance_scale:g}, height={setting.height}, width={setting.width})",
            "```",
            "",
            "recipe.json has each layer's bits, provenance.json what it was made from;",
            "`sdquant verify FOLDER` checks every file and replays a stored call.",
            "",
        ]
    )


def verify(folder: Path, events: Events = SILENT) -> dict[str, float | str]:
    """Digests, then the stored call on this machine's engines; signal to noise in dB by engine."""
    files = proof.check_files(folder)
    events.note(f"{files} files are as they were written")
    denoiser, packed = directory.load_denoiser(folder)
    found: dict[str, float | str] = {"files": files}
    engines = {Execution.DEQUANTIZED, choose(torch.device("cpu"))} if packed else {Execution.FP}
    for execution in sorted(engines):
        if packed:
            use_engine(denoiser, engine_for(execution))
        ratio = proof.replay(denoiser, folder / proof.SELF_TEST)
        if not ratio >= ENOUGH_DB:
            raise DamagedArtifact(
                f"{folder}: its stored call comes out {ratio:.1f} dB from what it was, computed {execution} "
                f"(at least {ENOUGH_DB:g} expected); this machine's libraries compute it wrongly"
            )
        found[f"signal to noise, dB, {execution}"] = ratio
    return found
