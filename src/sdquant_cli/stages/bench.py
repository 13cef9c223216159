"""`bench`: what a quantized model costs to run beside the floating-point one, as one table.

The packed network is exported to a temporary folder and loaded as a user would. Times are taken of all ways
in turn in one process; memory is of a process of its own for each way.
"""

import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..artifacts.latents import Latents
from ..artifacts.quant_state import (
    QuantState,
    find_state,
    packed_denoiser,
    quantized_denoiser,
    refuse_unless_simulated,
)
from ..artifacts.settings import check_sides
from ..artifacts.text_embeds import TextEmbeds
from ..artifacts.workspace import Workspace
from ..manifests import Frozen, Setting
from ..metrics.ratios import psnr
from ..models.autoencoder import decode
from ..models.conditioning import Conditioning, predict, size_ids
from ..models.denoise import denoise
from ..models.guidance import batch_conditioning, halves
from ..models.load import TORCH_DTYPES, Model, ModelName, find_model
from ..models.noise import initial_noise, step_generators
from ..models.schedule import schedule_of
from ..models.trajectory import Trajectory
from ..options.requests import BenchRequest
from ..quant.relaxing import relaxed_rows
from ..resources.measured import Timing, footprint, interleaved
from ..runtime.directory import load_denoiser, write_packed
from ..runtime.engines import choose
from ..store import Store
from ..types import Dtype, Execution
from .export import config_of

PICTURE_SEED = 1000


class Way(Frozen):
    """One row of the table."""

    execution: Execution
    dtype: Dtype  # of what is not quantized
    call_seconds: tuple[float, ...]  # CPU, of each repeat, at a step that is not relaxed
    wall_seconds: tuple[float, ...]
    picture_seconds: float  # CPU, of the denoiser's calls for one picture
    load_seconds: float  # CPU
    first_call_seconds: float  # CPU; an engine prepares weights in it
    peak_memory: int  # anonymous bytes of loading and one call, above what imports take
    disk: int  # bytes of the denoiser
    psnr_to_simulated: float | None  # dB, mean over pictures; None: none drawn, or no difference


class Bench(Frozen):
    """What was measured, and how."""

    state: str
    height: int
    width: int
    items: int  # of a call
    threads: int
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class _Inputs:
    """Of one call: random numbers, since time and memory do not depend on them."""

    x: Tensor
    timestep: Tensor
    conditioning: Conditioning

    @classmethod
    def of(cls, model: Model, setting: Setting, items: int, timestep: float) -> "_Inputs":
        pooled = None if model.pooled_width is None else torch.randn(items, model.pooled_width)
        size = size_ids(setting.height, setting.width).repeat(items, 1) if model.family.sized else None
        conditioning = Conditioning(torch.randn(items, *model.text_shape), pooled, size)
        x = torch.randn(items, *model.latent_shape(setting.height, setting.width))
        return cls(x, torch.tensor([timestep]), conditioning)

    def put_to(self, network: nn.Module) -> Tensor:
        with torch.no_grad():
            return predict(network, self.x, self.timestep, self.conditioning)


@dataclass(frozen=True)
class _Plan:
    """A way before it is measured; `load` can be sent to another process."""

    execution: Execution
    dtype: Dtype
    load: Any  # () -> network
    disk: int


def run(request: BenchRequest, workspace: Workspace) -> Bench:
    """Measure; nothing is stored."""
    workspace, events = workspace.on("cpu"), workspace.events
    state = find_state(workspace, request.state)
    refuse_unless_simulated(state, "bench")
    workspace.announce({"state": state})
    own: Setting = state.facts.setting
    model = workspace.model(own)
    sides = {"height": request.height or own.height, "width": request.width or own.width}
    check_sides(model, **sides)
    setting = own.model_copy(update=sides)
    kinds = _kinds_of_call(model, state)
    inputs = [_Inputs.of(model, setting, request.items, timestep) for timestep in kinds]
    with tempfile.TemporaryDirectory(prefix="sdquant-bench-") as folder:
        plans = _plans(workspace, model, setting, state, Path(folder))
        steps = len(plans) * (1 + len(inputs) * request.repeats)
        with events.task("measuring", steps, "call") as task:
            costs = []
            for plan in plans:
                costs.append(footprint(partial(_loaded, plan.load, inputs[0])))
                task.advance()
            networks = [plan.load() for plan in plans]
            calls = [partial(batch.put_to, network) for batch in inputs for network in networks]
            timings = interleaved(calls, request.repeats, task.advance)
        psnr = _psnr(workspace, plans, networks, state, request.pictures)
    each = halves(own.guidance_scale)
    ways = tuple(
        Way(
            execution=plan.execution,
            dtype=plan.dtype,
            call_seconds=tuple(times.cpu for times in timings[i]),
            wall_seconds=tuple(times.wall for times in timings[i]),
            picture_seconds=each / request.items * _of_all_calls(timings[i :: len(plans)], kinds.values()),
            load_seconds=cost.load_seconds,
            first_call_seconds=cost.first_seconds,
            peak_memory=cost.peak_bytes,
            disk=plan.disk,
            psnr_to_simulated=ratio,
        )
        for i, (plan, cost, ratio) in enumerate(zip(plans, costs, psnr, strict=True))
    )
    name = f"quant-state/{state.manifest.key}"
    return Bench(state=name, **sides, items=request.items, threads=torch.get_num_threads(), ways=ways)


def _kinds_of_call(model: Model, state: QuantState) -> dict[float, int]:
    """A timestep of each kind that takes its own time, and how many calls for a picture are of that kind."""
    schedule = schedule_of(model.sampler(state.facts.setting))
    relaxed = relaxed_rows(state.spec.relax, len(schedule.timesteps))
    wide = [relaxed is not None and bool(relaxed.rows[row]) for row in schedule.rows]
    return {schedule.calls[wide.index(kind)]: count for kind in (False, True) if (count := wide.count(kind))}


def _of_all_calls(by_kind: Sequence[Sequence[Timing]], counts: Iterable[int]) -> float:
    """CPU seconds, from the median of each kind."""
    kinds = zip(by_kind, counts, strict=True)
    return sum(count * statistics.median(times.cpu for times in repeats) for repeats, count in kinds)


def _plans(
    workspace: Workspace, model: Model, setting: Setting, state: QuantState, folder: Path
) -> list[_Plan]:
    network, layout = packed_denoiser(workspace, state, state.facts.setting)
    write_packed(network, config_of(layout, state.spec), folder / model.family.folder)
    numbers = sum(p.numel() for p in model.skeleton.parameters())
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    best = choose(torch.device("cpu"))
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
    workspace = Workspace(Store(url), device_name="cpu")
    state = workspace.resolve(QuantState, f"quant-state/{key}", "--state")
    return quantized_denoiser(workspace, state, setting.model_copy(update={"dtype": Dtype.FP32}))


def _load_packed(folder: Path, dtype: Dtype) -> nn.Module:
    network, _ = load_denoiser(folder, TORCH_DTYPES[dtype])
    return network


def _loaded(load: Any, inputs: _Inputs) -> Any:
    return partial(inputs.put_to, load())


def _psnr(
    workspace: Workspace,
    plans: Sequence[_Plan],
    networks: Sequence[nn.Module],
    state: QuantState,
    count: int,
) -> list[float | None]:
    """Of each way's pictures to the simulated ones, at the state's own size."""
    if not count:
        return [None] * len(plans)
    latents = workspace.input(Latents, state, "latents")
    embeds, setting = workspace.input(TextEmbeds, latents, "text-embeds"), state.facts.setting
    model = workspace.model(setting)
    vae, scale, index = model.vae(), setting.guidance_scale, embeds.index()[:count]
    texts, batch = batch_conditioning(embeds.texts(model, setting), index, scale), range(len(index))
    noise = initial_noise(model.latent_shape(setting.height, setting.width), PICTURE_SEED, batch)
    drawn = []
    with workspace.events.task("drawing", len(plans), "way") as task:
        for network in networks:
            generators = step_generators(PICTURE_SEED, batch)
            path = Trajectory(model.sampler(setting), noise, generators)
            latent = denoise(network, path, texts, scale)
            drawn.append(decode(vae, latent).double().flatten(1))
            task.advance()
    reference = drawn[[plan.execution for plan in plans].index(Execution.SIMULATED)]
    return [_mean_psnr(pictures, reference) for pictures in drawn]


def _mean_psnr(pictures: Tensor, reference: Tensor) -> float | None:
    ratios = psnr(pictures, reference)
    finite = ratios[ratios.isfinite()]
    return float(finite.mean()) if len(finite) else None
