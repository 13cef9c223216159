"""The autoencoder: from latents to images and back, on the scale that the denoiser expects."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import SdquantError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

CELLS = 4 * 64 * 64  # of latents that a GPU decodes together: some 3 GB of activations in fp32


@torch.no_grad()
def decode(vae: "AutoencoderKL | AutoencoderTiny", latents: Tensor, first: int = 0) -> Tensor:
    """Return the images (N,H,W,3) uint8 of latents (N,C,h,w).

    They are decoded one by one, on a GPU so many together as have the cells of four 512 x 512 images.

    Raises SdquantError for an image with NaN or infinity, by its number, counted from `first`.
    """
    factor, mean = _scale(vae, latents)
    decoded = []
    for part in (latents / factor + mean).split(_at_once(latents)):
        decoded.append(vae.decode(part).sample)
    images = torch.cat(decoded)
    broken = (~images.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if broken:
        raise SdquantError(
            f"picture {first + broken[0]} is not finite: the autoencoder computes NaN or infinity for it"
        )
    return (images.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def _at_once(latents: Tensor) -> int:
    return max(1, CELLS // latents[0, 0].numel()) if latents.is_cuda else 1


@torch.no_grad()
def encode_pictures(vae: "AutoencoderKL | AutoencoderTiny", images: Tensor) -> Tensor:
    """Return the latents (N,C,h,w) of images (N,H,W,3) uint8, the inverse of `decode`."""
    return encode(vae, images.permute(0, 3, 1, 2).float() / 127.5 - 1)


@torch.no_grad()
def encode(vae: "AutoencoderKL | AutoencoderTiny", pixels: Tensor) -> Tensor:
    """Return the latents (N,C,h,w) of pixels (N,3,H,W) in -1..1, on the scale that the denoiser expects."""
    encoded = vae.encode(pixels)
    # AutoencoderTiny returns latents, not their distribution
    latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
    factor, mean = _scale(vae, latents)
    return (latents - mean) * factor


def _scale(vae: "AutoencoderKL | AutoencoderTiny", latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return factor and mean: the denoiser's latents are (z - mean) factor of the autoencoder's z."""
    config = vae.config
    factor, mean = torch.tensor(config.scaling_factor), torch.tensor(config.get("shift_factor") or 0.0)
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        factor = config.scaling_factor / torch.tensor(config.latents_std).view(1, -1, 1, 1)
        mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1)
    return factor.to(latents), mean.to(latents)
