"""`bench`: what a quantized model costs to run beside the floating-point one, as one table.

The packed network is exported to a temporary folder and loaded as a user would. Times are taken of all ways
in turn in one process; memory is of a process of its own for each way.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..artifacts.latents import Latents
from ..artifacts.quant_state import (
    QuantState,
    find_state,
    packed_denoiser,
    quantized_denoiser,
    refuse_unless_packable,
)
from ..artifacts.settings import check_sides
from ..artifacts.text_embeds import TextEmbeds
from ..artifacts.workspace import Workspace
from ..manifests import Frozen, Setting
from ..metrics.ratios import psnr
from ..models.autoencoder import decode
from ..models.denoise import denoise
from ..models.example_call import ExampleCall
from ..models.guidance import batch_conditioning, halves
from ..models.load import TORCH_DTYPES, Model, ModelName, find_model
from ..models.schedule import schedule_of
from ..options.requests import BenchRequest
from ..quant.relaxing import relaxed_rows
from ..resources.measured import Footprint, Timing, footprint, interleaved
from ..runtime.description import config_of
from ..runtime.directory import load_denoiser, write_packed
from ..runtime.engines import choose
from ..store import Store
from ..types import Dtype, Execution

PICTURE_SEED = 1000


class Way(Frozen):
    """The cost of one way to run the denoiser: a row of the table."""

    execution: Execution
    dtype: Dtype  # of what is not quantized
    call_seconds: tuple[float, ...]  # CPU, by repeat, at a timestep that is not relaxed
    wall_seconds: tuple[float, ...]
    picture_seconds: float  # CPU, of the denoiser's calls for one picture
    load_seconds: float  # CPU
    first_call_seconds: float  # CPU; an engine prepares weights in it
    peak_memory: int  # anonymous bytes of loading and one call, above what imports take
    disk: int  # bytes of the denoiser
    psnr_to_simulated: float | None  # dB, mean over pictures; None: none drawn, or no difference


class Bench(Frozen):
    """The measurements of all ways, and the call they were taken on."""

    state: str
    height: int
    width: int
    items: int  # of a call
    threads: int
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class _Kind:
    """Calls that take the same time: those at a relaxed timestep, or all others."""

    timestep: float
    count: int  # of a picture's calls


@dataclass(frozen=True)
class _Plan:
    """A way before it is measured; `load` can be sent to another process."""

    execution: Execution
    dtype: Dtype
    load: Callable[[], nn.Module]
    disk: int


@dataclass(frozen=True)
class _Measurement:
    """The cost of one way: memory in a process of its own, timings by kind of call."""

    cost: Footprint
    timings: list[list[Timing]]  # by kind, then by repeat
    psnr: float | None

    def picture_seconds(self, kinds: Sequence[_Kind], calls_per_item: float) -> float:
        """Return the CPU seconds of all calls for one picture, from the median of each kind."""
        seconds = 0.0
        for kind, repeats in zip(kinds, self.timings, strict=True):
            seconds += kind.count * statistics.median(timing.cpu for timing in repeats)
        return calls_per_item * seconds


def run(request: BenchRequest, workspace: Workspace) -> Bench:
    """Measure all ways; nothing is stored."""
    workspace = workspace.on("cpu")
    state = find_state(workspace, request.state)
    refuse_unless_packable(state, "bench")
    workspace.announce({"state": state})
    setting = _setting(request, workspace, state)
    kinds = _kinds_of_call(workspace.model(setting), state)
    with tempfile.TemporaryDirectory(prefix="sdquant-bench-") as folder:
        plans = _plans(workspace, setting, state, Path(folder))
        measurements = _measure(request, workspace, state, plans, _calls(request, workspace, setting, kinds))
    ways = []
    for plan, measured in zip(plans, measurements, strict=True):
        first = measured.timings[0]
        way = Way(
            execution=plan.execution,
            dtype=plan.dtype,
            call_seconds=tuple(timing.cpu for timing in first),
            wall_seconds=tuple(timing.wall for timing in first),
            picture_seconds=measured.picture_seconds(kinds, halves(setting.guidance_scale) / request.items),
            load_seconds=measured.cost.load_seconds,
            first_call_seconds=measured.cost.first_seconds,
            peak_memory=measured.cost.peak_bytes,
            disk=plan.disk,
            psnr_to_simulated=measured.psnr,
        )
        ways.append(way)
    return Bench(
        state=state.name,
        height=setting.height,
        width=setting.width,
        items=request.items,
        threads=torch.get_num_threads(),
        ways=tuple(ways),
    )


def _setting(request: BenchRequest, workspace: Workspace, state: QuantState) -> Setting:
    setting = state.facts.setting
    sides = {"height": request.height or setting.height, "width": request.width or setting.width}
    check_sides(workspace.model(setting), **sides)
    return setting.model_copy(update=sides)


def _kinds_of_call(model: Model, state: QuantState) -> list[_Kind]:
    """Return a timestep of each kind of call, the calls that are not relaxed first."""
    schedule = schedule_of(model.sampler(state.facts.setting))
    relaxed = relaxed_rows(state.spec.relax, len(schedule.timesteps))
    by_kind: dict[bool, list[float]] = {False: [], True: []}
    for row, timestep in zip(schedule.rows, schedule.calls, strict=True):
        by_kind[relaxed is not None and bool(relaxed.rows[row])].append(timestep)
    return [_Kind(timesteps[0], len(timesteps)) for timesteps in by_kind.values() if timesteps]


def _calls(
    request: BenchRequest, workspace: Workspace, setting: Setting, kinds: Sequence[_Kind]
) -> list[ExampleCall]:
    model = workspace.model(setting)
    return [ExampleCall.of(model, setting, request.items, kind.timestep) for kind in kinds]


def _plans(workspace: Workspace, setting: Setting, state: QuantState, folder: Path) -> list[_Plan]:
    """Return the ways to measure; the packed network is written to a folder."""
    model = workspace.model(setting)
    network, layout = packed_denoiser(workspace, state, state.facts.setting)
    write_packed(network, config_of(layout), folder / model.family.folder)
    numbers = sum(p.numel() for p in model.skeleton.parameters())
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    best = choose(torch.device("cpu"), layout.form)
    fp = partial(_load_fp, model.name)
    simulated = partial(_load_simulated, setting, state.key, workspace.store.url)
    packed = partial(_load_packed, folder)
    return [
        _Plan(Execution.FP, Dtype.FP32, partial(fp, Dtype.FP32), 4 * numbers),
        _Plan(Execution.FP, Dtype.BF16, partial(fp, Dtype.BF16), 2 * numbers),
        _Plan(Execution.SIMULATED, Dtype.FP32, simulated, 4 * numbers),
        _Plan(best, Dtype.FP32, partial(packed, Dtype.FP32), size),
        _Plan(best, Dtype.BF16, partial(packed, Dtype.BF16), size),
    ]


def _load_fp(name: ModelName, dtype: Dtype) -> nn.Module:
    return find_model(name).denoiser(dtype)


def _load_simulated(setting: Setting, key: str, url: str) -> nn.Module:
    workspace = Workspace(Store(url)).on("cpu")
    state = workspace.resolve(QuantState, f"quant-state/{key}", "--state")
    return quantized_denoiser(workspace, state, setting.model_copy(update={"dtype": Dtype.FP32}))


def _load_packed(folder: Path, dtype: Dtype) -> nn.Module:
    network, _ = load_denoiser(folder, TORCH_DTYPES[dtype])
    return network


def _loaded(load: Callable[[], nn.Module], call: ExampleCall) -> Callable[[], object]:
    return partial(call.run, load())


def _measure(
    request: BenchRequest,
    workspace: Workspace,
    state: QuantState,
    plans: Sequence[_Plan],
    calls: Sequence[ExampleCall],
) -> list[_Measurement]:
    """Measure all ways: memory one after the other, times in turn."""
    total = len(plans) * (1 + len(calls) * request.repeats)
    with workspace.events.task("measuring", total, "call") as task:
        costs = []
        for plan in plans:
            costs.append(footprint(partial(_loaded, plan.load, calls[0])))
            task.advance()
        networks = [plan.load() for plan in plans]
        runs = [partial(call.run, network) for call in calls for network in networks]
        timings = interleaved(runs, request.repeats, task.advance)
    psnr = _psnr(workspace, plans, networks, state, request.pictures)
    measurements = []
    for i, cost in enumerate(costs):
        by_kind = timings[i :: len(networks)]
        measurements.append(_Measurement(cost, by_kind, psnr[i]))
    return measurements


def _psnr(
    workspace: Workspace,
    plans: Sequence[_Plan],
    networks: Sequence[nn.Module],
    state: QuantState,
    count: int,
) -> list[float | None]:
    """Return the mean PSNR of each way's pictures to the simulated ones, at the state's own size."""
    if not count:
        return [None] * len(plans)
    latents = workspace.input(Latents, state, "latents")
    embeds, setting = workspace.input(TextEmbeds, latents, "text-embeds"), state.facts.setting
    model = workspace.model(setting)
    vae, scale, index = model.vae(), setting.guidance_scale, embeds.index()[:count]
    texts, batch = batch_conditioning(embeds.texts(model, setting), index, scale), range(len(index))
    pictures: dict[int, Tensor] = {}
    with workspace.events.task("drawing", len(plans), "way") as task:
        for i, network in enumerate(networks):
            path = model.trajectory(setting, PICTURE_SEED, batch)
            pictures[i] = decode(vae, denoise(network, path, texts, scale))
            task.advance()
    simulated = next(i for i, plan in enumerate(plans) if plan.execution is Execution.SIMULATED)
    return [_mean_psnr(images, pictures[simulated]) for images in pictures.values()]


def _mean_psnr(pictures: Tensor, reference: Tensor) -> float | None:
    ratios = psnr(pictures, reference)
    finite = ratios[ratios.isfinite()]
    return float(finite.mean()) if len(finite) else None
