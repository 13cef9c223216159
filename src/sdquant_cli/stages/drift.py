"""`evaluate --drift`: at which call the quantized trajectory leaves the floating-point one, and why.

Two things are kept apart: the error that each call makes on the floating-point model's own latents, and
the distance of the two trajectories from the same noise, in which those errors add up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..artifacts.drift import COLUMNS, Drift, layout
from ..artifacts.images import Images
from ..artifacts.prompts import Prompts
from ..artifacts.quant_state import QuantState, quantized_denoiser
from ..artifacts.text_embeds import TextEmbeds
from ..artifacts.workspace import Blueprint, Workspace
from ..events import Task
from ..manifests import DriftFacts, DriftSpec
from ..metrics.ratios import cosine, snr
from ..models.conditioning import Conditioning, predict
from ..models.denoise import denoise
from ..models.guidance import batch_conditioning, halves, repeat_for_guidance
from ..models.noise import initial_noise, step_generators
from ..models.schedule import schedule_of
from ..models.trajectory import Trajectory
from ..quant.finite import check_finite
from ..store import Draft
from ..types import Dtype

NOT_FINITE = "the model computes NaN or infinity for it"


@dataclass(frozen=True)
class _Batch:
    """A micro-batch of prompts: everything but the network."""

    prompts: Sequence[int]
    fresh_sampler: Callable[[], Any]
    noise: Tensor
    generators: Callable[[], list[torch.Generator]]
    conditioning: Conditioning
    guidance_scale: float
    task: Task

    def trajectory(self, network: nn.Module) -> list[Tensor]:
        """What the network is given at each call."""
        seen: list[Tensor] = []

        def visit(call: int, x: Tensor) -> bool:
            check_finite(x, [f"the latent of prompt {i} at call {call}" for i in self.prompts], NOT_FINITE)
            seen.append(x.clone())
            self.task.advance()
            return True

        path = Trajectory(self.fresh_sampler(), self.noise, self.generators())
        denoise(network, path, self.conditioning, self.guidance_scale, visit)
        return seen

    @torch.no_grad()
    def predictions(self, network: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
        """Noise predictions (N,H,...) of the H halves of guidance."""
        scale = self.guidance_scale
        prediction = predict(network, repeat_for_guidance(x, scale), timestep, self.conditioning)
        self.task.advance()
        by_half = torch.stack(prediction.chunk(halves(scale)), dim=1)
        check_finite(by_half, [f"the prediction for prompt {i}" for i in self.prompts], NOT_FINITE)
        return by_half

    def compare(self, teacher: nn.Module, student: nn.Module) -> dict[str, np.ndarray]:
        """The three columns (prompts, calls)."""
        ours, theirs = self.trajectory(teacher), self.trajectory(student)
        calls = list(zip(ours, self.fresh_sampler().timesteps, strict=True))
        sqnr = [snr(self.predictions(teacher, x, t), self.predictions(student, x, t)) for x, t in calls]
        return {
            "latent_cosine": _columns([cosine(a, b) for a, b in zip(ours, theirs, strict=True)]),
            "latent_snr": _columns([snr(a, b) for a, b in zip(ours, theirs, strict=True)]),
            "prediction_sqnr": _columns(sqnr),
        }


def measure_drift(workspace: Workspace, images: Images, count: int) -> Drift:
    """Return the drift of quantized pictures: their first `count` prompts are drawn again, twice."""
    setting, micro_batch = images.spec.setting, images.spec.micro_batch
    count = min(count, images.facts.images)
    calls = schedule_of(workspace.model(setting).sampler(setting)).calls
    blueprint = Blueprint(
        DriftSpec(setting=setting, prompts=count, seed=images.spec.seed, micro_batch=micro_batch),
        {
            "prompts": workspace.input(Prompts, images, "prompts"),
            "text-embeds": workspace.input(TextEmbeds, images, "text-embeds"),
            "state": workspace.input(QuantState, images, "state"),
        },
        layout(count, len(calls), micro_batch),
        -(-count // micro_batch),
    )
    return workspace.produce(Drift, blueprint, partial(_compare_units, workspace, images))


def _compare_units(workspace: Workspace, images: Images, draft: Draft) -> DriftFacts:
    setting, seed, device = images.spec.setting, images.spec.seed, workspace.device
    model = workspace.model(setting)
    embeds = workspace.input(TextEmbeds, images, "text-embeds")
    teacher = model.denoiser(Dtype(setting.dtype), str(device))
    student = quantized_denoiser(workspace, workspace.input(QuantState, images, "state"), setting)
    texts, index = embeds.texts(model, setting), embeds.index()
    shape, scale = model.latent_shape(setting.height, setting.width), setting.guidance_scale
    calls = schedule_of(model.sampler(setting)).calls
    missing = draft.missing()
    with workspace.events.task("drift", 4 * len(calls) * len(missing), "UNet call") as task:
        for unit in missing:
            picks = range(*draft.rows(unit, COLUMNS[0]))
            batch = _Batch(
                picks,
                partial(model.sampler, setting),
                initial_noise(shape, seed, picks).to(device),
                partial(step_generators, seed, picks),
                batch_conditioning(texts, index[picks.start : picks.stop], scale).to(device),
                scale,
                task,
            )
            draft.write(unit, batch.compare(teacher, student))
    means = {name: _means(draft.peek(name)) for name in COLUMNS}
    return DriftFacts(timesteps=calls, **means)


def _columns(by_call: Sequence[Tensor]) -> np.ndarray:
    return torch.stack(list(by_call), dim=1).cpu().numpy()


def _means(values: np.ndarray) -> tuple[float | None, ...]:
    """Mean over prompts by call; None where latents are still equal."""
    return tuple(float(mean) if np.isfinite(mean) else None for mean in values.mean(axis=0))
