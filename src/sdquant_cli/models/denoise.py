"""The denoising loop, once, for everything that samples: data, pictures, drift."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .condition import Condition, dtype_of, predict
from .samplers import step

Visit = Callable[[int, Tensor], bool]  # (call, input before guidance doubling) -> go on?


@torch.no_grad()
def denoise(
    network: nn.Module,
    sampler: Any,
    noise: Tensor,
    condition: Condition,
    guidance_scale: float,
    generators: Sequence[torch.Generator] | None = None,
    visit: Visit | None = None,
) -> Tensor:
    """Latents (N,C,h,w) from noise of the same shape, by classifier-free guidance.

    Every call runs the 2N items of `condition`, unconditional first. `generators` (N) are for samplers
    that add noise. `visit` sees each call's input after `scale_model_input`, before the call; False
    stops the loop. The sampler is the caller's, its timesteps set.
    """
    condition = condition.to(noise.device, dtype_of(network))  # the same tensors in every call
    latents = noise * getattr(sampler, "init_noise_sigma", 1.0)
    for call, timestep in enumerate(sampler.timesteps):
        scaled = scale_input(sampler, latents, timestep)
        if visit is not None and not visit(call, scaled):
            break
        without, given = predict(network, torch.cat([scaled, scaled]), timestep, condition).chunk(2)
        guided = without + guidance_scale * (given - without)
        latents = step(sampler, guided, timestep, latents, generators)
    return latents


def scale_input(sampler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """The network's input; flow matching takes latents as they are."""
    if not hasattr(sampler, "scale_model_input"):
        return latents
    scaled: Tensor = sampler.scale_model_input(latents, timestep)
    return scaled


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures (N,H,W,3) uint8 of latents (N,C,h,w), one after the other: memory is that of one."""
    config = vae.config
    moved = latents / config.scaling_factor + (config.get("shift_factor") or 0.0)
    images = torch.cat([vae.decode(one[None]).sample for one in moved])
    return (images.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


@torch.no_grad()
def encode_pictures(vae: Any, images: Tensor) -> Tensor:
    """Latents (N,C,h,w), scaled as the denoiser expects, of pictures (N,H,W,3) uint8: `decode` backwards."""
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    config = vae.config
    mean: Tensor = vae.encode(pixels).latent_dist.mean
    return (mean - (config.get("shift_factor") or 0.0)) * config.scaling_factor
