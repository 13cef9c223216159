"""The denoising loop, once, for everything that samples: data, pictures, drift."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SdquantError
from .conditioning import Conditioning, dtype_of, predict
from .guidance import apply_guidance, repeat_for_guidance
from .samplers import Trajectory

Visit = Callable[[int, Tensor], bool]  # (call, input before it is repeat_for_guidance for guidance) -> go on?


@torch.no_grad()
def denoise(
    network: nn.Module,
    path: Trajectory,
    conditioning: Conditioning,
    guidance_scale: float,
    visit: Visit | None = None,
) -> Tensor:
    """Run a trajectory to its end, and return its latents (N,C,h,w).

    Every call runs the items of `conditioning`: `batch_conditioning` of N prompts at the same guidance scale.
    `visit` sees the input of each call, after `scale_model_input`; where it returns False the loop stops.
    """
    device = path.latents.device
    conditioning = conditioning.to(device, dtype_of(network))  # the same tensors in every call
    while not path.finished:
        scaled = path.input()
        if visit is not None and not visit(path.call, scaled):
            break
        prediction = predict(
            network, repeat_for_guidance(scaled, guidance_scale), path.timestep, conditioning
        )
        path.advance(apply_guidance(prediction, guidance_scale))
    return path.latents


@torch.no_grad()
def decode(vae: Any, latents: Tensor, first: int = 0) -> Tensor:
    """Pictures (N,H,W,3) uint8 of latents (N,C,h,w), one after the other: memory is that of one.

    Raises SdquantError for a picture with NaN, by its number, counted from `first`.
    """
    factor, mean = _scale(vae, latents)
    moved = latents / factor + mean
    images = torch.cat([vae.decode(one[None]).sample for one in moved])
    broken = (~images.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if broken:
        raise SdquantError(
            f"picture {first + broken[0]} is not finite: the autoencoder computes NaN or infinity for it"
        )
    return (images.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


@torch.no_grad()
def encode_pictures(vae: Any, images: Tensor) -> Tensor:
    """Latents (N,C,h,w), scaled as the denoiser expects, of pictures (N,H,W,3) uint8: `decode` backwards."""
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    encoded = vae.encode(pixels)
    # AutoencoderTiny gives latents, not their distribution
    latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
    factor, mean = _scale(vae, latents)
    return (latents - mean) * factor


def _scale(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and mean that take the autoencoder's latents z to the denoiser's: (z - mean) * factor."""
    config = vae.config
    factor, mean = torch.tensor(config.scaling_factor), torch.tensor(config.get("shift_factor") or 0.0)
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        factor = config.scaling_factor / torch.tensor(config.latents_std).view(1, -1, 1, 1)
        mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1)
    return factor.to(latents), mean.to(latents)
