"""Samplers: diffusers' schedulers by their short names, made ready for one trajectory."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..types import Scheduler

CLASSES = {
    Scheduler.PNDM: "PNDMScheduler",
    Scheduler.DDIM: "DDIMScheduler",
    Scheduler.EULER: "EulerDiscreteScheduler",
    Scheduler.EULER_ANCESTRAL: "EulerAncestralDiscreteScheduler",
    Scheduler.DPM: "DPMSolverMultistepScheduler",
    Scheduler.UNIPC: "UniPCMultistepScheduler",
    Scheduler.LCM: "LCMScheduler",
    Scheduler.FLOW_EULER: "FlowMatchEulerDiscreteScheduler",
}


def from_config(name: Scheduler, config: Mapping[str, Any]) -> Any:
    """A sampler of a noise schedule; `config` is that of any scheduler of the model."""
    import diffusers

    # DDIM clips x_0 to -1..1 unless told otherwise: right for pictures, wrong for latents
    defaults = {"clip_sample": False} if name is Scheduler.DDIM else {}
    return getattr(diffusers, CLASSES[name]).from_config({**defaults, **config})


def set_timesteps(sampler: Any, steps: int, tokens: int) -> None:
    """Begin a trajectory of `steps`; `tokens` of a latent decide the shift where it is dynamic."""
    config, more = sampler.config, {}
    if config.get("use_dynamic_shifting"):
        # linear in the number of tokens, as StableDiffusion3Pipeline does
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        bottom, top = config.get("base_shift", 0.5), config.get("max_shift", 1.16)
        more["mu"] = bottom + (top - bottom) * (tokens - low) / (high - low)
    sampler.set_timesteps(steps, **more)


def step(
    sampler: Any,
    prediction: Tensor,
    timestep: Tensor,
    latents: Tensor,
    generators: Sequence[torch.Generator] | None,
) -> Tensor:
    """The latents (N,C,h,w) of the next call; samplers that add noise draw each item's from its own."""
    noisy = generators is not None and "generator" in inspect.signature(sampler.step).parameters
    more = {"generator": list(generators)} if noisy else {}  # type: ignore[arg-type]
    moved: Tensor = sampler.step(prediction, timestep, latents, **more).prev_sample
    return moved
