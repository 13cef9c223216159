"""`evaluate --drift`: at which call the quantized trajectory leaves the floating-point one, and why.

Two things are kept apart: the error that each call makes on the floating-point model's own latents, and
the distance of the two trajectories from the same noise, in which those errors add up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

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
from ..models.schedule import schedule_of
from ..models.trajectory import Trajectory
from ..quant.finite import check_finite
from ..store import Draft, Facts
from ..types import Dtype, StepMatch

NOT_FINITE = "the model computes NaN or infinity for it"


@dataclass(frozen=True)
class _Batch:
    """A micro-batch of prompts: everything but the network."""

    prompts: Sequence[int]
    path: Callable[[], Trajectory]  # a fresh one, from the same noise
    conditioning: Conditioning
    guidance_scale: float
    task: Task

    def trajectory(self, network: nn.Module) -> list[Tensor]:
        """Return the network's input at each call."""
        inputs: list[Tensor] = []

        def visit(call: int, x: Tensor) -> bool:
            check_finite(x, [f"the latent of prompt {i} at call {call}" for i in self.prompts], NOT_FINITE)
            inputs.append(x.clone())
            self.task.advance()
            return True

        denoise(network, self.path(), self.conditioning, self.guidance_scale, visit)
        return inputs

    @torch.no_grad()
    def predictions(self, network: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
        """Return the predictions (N,H,...) of the H halves of guidance."""
        scale = self.guidance_scale
        prediction = predict(network, repeat_for_guidance(x, scale), timestep, self.conditioning)
        self.task.advance()
        by_half = torch.stack(prediction.chunk(halves(scale)), dim=1)
        check_finite(by_half, [f"the prediction for prompt {i}" for i in self.prompts], NOT_FINITE)
        return by_half

    def compare(self, teacher: nn.Module, student: nn.Module) -> dict[str, np.ndarray]:
        """Return the three columns (prompts, calls)."""
        ours, theirs = self.trajectory(teacher), self.trajectory(student)
        columns: dict[str, list[Tensor]] = {name: [] for name in COLUMNS}
        for x, other, timestep in zip(ours, theirs, self.path().sampler.timesteps, strict=True):
            columns["latent_cosine"].append(cosine(x, other))
            columns["latent_snr"].append(snr(x, other))
            reference = self.predictions(teacher, x, timestep)
            columns["prediction_sqnr"].append(snr(reference, self.predictions(student, x, timestep)))
        return {name: torch.stack(values, dim=1).cpu().numpy() for name, values in columns.items()}


def measure_drift(workspace: Workspace, images: Images, count: int) -> Drift:
    """Return the drift of quantized pictures: their first `count` prompts are drawn again, twice."""
    setting, micro_batch = images.spec.setting, images.spec.micro_batch
    count = min(count, images.facts.images)
    calls = schedule_of(workspace.model(setting).sampler(setting)).calls
    blueprint = Blueprint(
        DriftSpec(
            setting=setting,
            prompts=count,
            seed=images.spec.seed,
            micro_batch=micro_batch,
            step_match=_interpolated(images),
        ),
        {
            "prompts": workspace.input(Prompts, images, "prompts"),
            "text-embeds": workspace.input(TextEmbeds, images, "text-embeds"),
            "state": workspace.input(QuantState, images, "state"),
        },
        layout(count, len(calls), micro_batch),
        -(-count // micro_batch),
    )
    return workspace.produce(Drift, blueprint, partial(_compare_units, workspace, images))


def _interpolated(images: Images) -> StepMatch | None:
    """Return `interpolate` if the pictures' tables are; None for any other, as specs were before it."""
    return images.spec.step_match if images.spec.step_match is StepMatch.INTERPOLATE else None


def _compare_units(workspace: Workspace, images: Images, draft: Draft) -> Facts:
    setting, seed, device = images.spec.setting, images.spec.seed, workspace.device
    model = workspace.model(setting)
    embeds = workspace.input(TextEmbeds, images, "text-embeds")
    teacher = model.denoiser(Dtype(setting.dtype), str(device))
    state = workspace.input(QuantState, images, "state")
    student = quantized_denoiser(workspace, state, setting, match=_interpolated(images))
    texts, index = embeds.texts(model, setting), embeds.index()
    scale = setting.guidance_scale
    calls = schedule_of(model.sampler(setting)).calls
    missing = draft.missing_rows(COLUMNS[0])
    sizes = dict.fromkeys(missing, 4 * len(calls))
    with workspace.events.task("drift", sum(sizes.values()), "UNet call") as task:
        for unit in draft.turns(sizes, task):
            prompts = missing[unit]
            path = partial(model.trajectory, setting, seed, prompts, device)
            conditioning = batch_conditioning(texts, index[prompts.start : prompts.stop], scale).to(device)
            batch = _Batch(prompts, path, conditioning, scale, task)
            draft.write(unit, batch.compare(teacher, student))
    return partial(_facts, calls, draft)


def _facts(calls: tuple[float, ...], draft: Draft) -> DriftFacts:
    means = {name: _means(draft.peek(name)) for name in COLUMNS}
    return DriftFacts(timesteps=calls, **means)


def _means(values: np.ndarray) -> tuple[float | None, ...]:
    """Return the mean over prompts by call; None where latents are still equal."""
    return tuple(float(mean) if np.isfinite(mean) else None for mean in values.mean(axis=0))
