"""The inputs of an inpainting denoiser beside the latent: a mask, and the latent of the masked picture.

A prompt file has no pictures, so each prompt is given one that follows from its number: pink noise, whose
spectrum falls as that of photographs does, and a box of random place and size for the mask.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .autoencoder import encode
from .noise import generator

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

BOXES = "boxes"  # the name of this source in a setting
MASK = 1  # channels of a mask; the others are those of a latent
SMALLEST = 0.25  # side of a box, as a share of the picture's
COARSEST = 2  # cells along a side of the coarsest noise; each finer one has twice as many


@torch.no_grad()
def box_contexts(
    vae: "AutoencoderKL | AutoencoderTiny",
    size: tuple[int, int],
    factor: int,
    seed: int,
    prompts: Sequence[int],
) -> Tensor:
    """Return the contexts (N,1+C,h,w) of numbered prompts, for pictures of a size (height, width) in pixels.

    `factor` is the number of pixels along one side of a latent's cell. The mask is 1 where the picture is to
    be painted; there the encoded picture is grey.
    """
    contexts = []
    for prompt in prompts:
        g = generator("context", seed, prompt)
        mask = box(size[0] // factor, size[1] // factor, g)
        covered = mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        masked = (pink_noise(*size, g) * (1 - covered))[None].to(vae.device)
        contexts.append(torch.cat([mask[None].to(vae.device), encode(vae, masked)], dim=1))
    return torch.cat(contexts)


def box(height: int, width: int, g: torch.Generator) -> Tensor:
    """Return a mask (1,height,width) of 0 and 1: a box of whole cells, one at least."""
    mask = torch.zeros(1, height, width)
    rows, columns = (_span(length, g) for length in (height, width))
    mask[:, rows, columns] = 1
    return mask


def _span(length: int, g: torch.Generator) -> slice:
    share, place = torch.rand(2, generator=g).tolist()
    size = max(1, round(length * (SMALLEST + (1 - SMALLEST) * share)))
    start = round((length - size) * place)
    return slice(start, start + size)


def pink_noise(height: int, width: int, g: torch.Generator) -> Tensor:
    """Return a picture (3,height,width) in -1..1: noise at every scale, weaker the finer it is."""
    picture = torch.zeros(1, 3, height, width)
    cells = COARSEST
    while cells <= min(height, width):
        noise = torch.randn(1, 3, cells, cells, generator=g)
        picture += F.interpolate(noise, (height, width), mode="bicubic") * COARSEST / cells
        cells *= 2
    return (picture[0] / 2).clamp(-1, 1)
