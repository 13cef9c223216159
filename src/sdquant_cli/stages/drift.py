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

from ..artifacts.prompts import read_texts
from ..artifacts.quant_state import quantized_denoiser
from ..artifacts.workspace import open_model, publish, refs, up_to_date
from ..events import Events, Task
from ..manifests import DriftFacts, DriftSpec, ImagesSpec
from ..metrics.ratios import cosine, snr
from ..models.conditioning import Conditioning, predict
from ..models.denoise import denoise
from ..models.guidance import batch_conditioning, halves, repeat_for_guidance
from ..models.noise import initial_noise, step_generators
from ..models.samplers import Trajectory
from ..models.schedule import schedule_of
from ..quant.finite import check_finite
from ..store import ArraySpec, Artifact, Store
from ..types import Dtype

NOT_FINITE = "the model computes NaN or infinity for it"
COLUMNS = ("latent_cosine", "latent_snr", "prediction_sqnr")


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


def measure_drift(
    images: Artifact, count: int, store: Store, device: torch.device, events: Events
) -> Artifact:
    """The drift artifact of quantized pictures: their first `count` prompts drawn again, twice."""
    drawn: ImagesSpec = images.spec
    roles = ("prompts", "text-embeds", "state")
    inputs = {role: store.follow(images.manifest.inputs[role]) for role in roles}
    setting, model = drawn.setting, open_model(drawn.setting)
    count = min(count, images.facts.images)
    spec = DriftSpec(setting=setting, prompts=count, seed=drawn.seed, micro_batch=drawn.micro_batch)
    timesteps = schedule_of(model.sampler(setting)).calls
    dims = ("sample", "call")
    column = ArraySpec((count, len(timesteps)), "float64", dims, drawn.micro_batch, finite=False)
    draft = store.begin(spec, refs(inputs), dict.fromkeys(COLUMNS, column), -(-count // drawn.micro_batch))
    if isinstance(draft, Artifact):
        return up_to_date(store, draft, events)
    teacher = model.denoiser(Dtype(setting.dtype), str(device))
    student = quantized_denoiser(setting, inputs["state"], store, device)
    texts = read_texts(inputs["text-embeds"], model, setting)
    index = inputs["text-embeds"].read("index")
    shape = model.latent_shape(setting.height, setting.width)
    with events.task("drift", 4 * len(timesteps) * len(draft.missing()), "UNet call") as task:
        for unit in draft.missing():
            picks = range(*draft.rows(unit, COLUMNS[0]))
            batch = _Batch(
                picks,
                partial(model.sampler, setting),
                initial_noise(shape, drawn.seed, picks).to(device),
                partial(step_generators, drawn.seed, picks),
                batch_conditioning(texts, index[picks.start : picks.stop], setting.guidance_scale).to(device),
                setting.guidance_scale,
                task,
            )
            # ratios are infinite where latents are equal
            draft.write(unit, batch.compare(teacher, student))
    found = {name: draft.peek(name) for name in COLUMNS}
    facts = DriftFacts(timesteps=timesteps, **{name: _means(values) for name, values in found.items()})
    return publish(store, draft, facts)


def _columns(by_call: Sequence[Tensor]) -> np.ndarray:
    return torch.stack(list(by_call), dim=1).cpu().numpy()


def _means(values: np.ndarray) -> tuple[float | None, ...]:
    """Mean over prompts by call; None where latents are still equal."""
    return tuple(float(mean) if np.isfinite(mean) else None for mean in values.mean(axis=0))
