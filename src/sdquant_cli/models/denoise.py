"""The denoising loop, once, for everything that samples: data, pictures, drift."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Visit = Callable[[int, Tensor], bool]  # (call, UNet input before guidance doubling) -> go on?


@torch.no_grad()
def denoise(
    unet: nn.Module,
    sampler: Any,
    noise: Tensor,
    conditional: Tensor,
    unconditional: Tensor,
    guidance_scale: float,
    visit: Visit | None = None,
) -> Tensor:
    """Latents (N,C,h,w) from noise of the same shape, by classifier-free guidance.

    Every call runs 2N items, unconditional first. `conditional` is (N,L,D), `unconditional` (1,L,D).
    `visit` sees each call's input after `scale_model_input`, before the call; False stops the loop.
    A fresh scheduler state is the caller's: call `set_timesteps` first.
    """
    latents = noise * sampler.init_noise_sigma
    context = torch.cat([unconditional.expand(len(noise), -1, -1), conditional])
    dtype = next(unet.parameters()).dtype
    for call, timestep in enumerate(sampler.timesteps):
        scaled = sampler.scale_model_input(latents, timestep)
        if visit is not None and not visit(call, scaled):
            break
        both = torch.cat([scaled, scaled]).to(dtype)
        predicted = unet(both, timestep, encoder_hidden_states=context.to(dtype)).sample.float()
        without, given = predicted.chunk(2)
        guided = without + guidance_scale * (given - without)
        latents = sampler.step(guided, timestep, latents).prev_sample
    return latents


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures (N,H,W,3) uint8 of latents (N,C,h,w)."""
    images = vae.decode(latents / vae.config.scaling_factor).sample
    return (images.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


@torch.no_grad()
def encode_pictures(vae: Any, images: Tensor) -> Tensor:
    """Latents (N,C,h,w), scaled as the UNet expects, of pictures (N,H,W,3) uint8: `decode` backwards."""
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
