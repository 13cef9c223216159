"""Classifier-free guidance (Ho & Salimans 2022), which a scale at or below 1 turns off, as in diffusers.

With guidance each prompt takes two items of a batch, and the unconditional half comes first. Latent
consistency models (Luo et al. 2023) have learned the guided prediction: they embed the scale, and each
prompt is one item.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .conditioning import Conditioning, Index


def halves(scale: float) -> int:
    """Return the number of items per prompt in a batch of the network."""
    return 2 if scale > 1 else 1


def repeat_for_guidance(x: Tensor, scale: float) -> Tensor:
    """Return latents or timesteps (N,...) once for each half of the batch."""
    return x.repeat(halves(scale), *[1] * (x.dim() - 1))


def batch_conditioning(texts: Conditioning, index: Index, scale: float) -> Conditioning:
    """Return the conditioning of prompts `index` (N), after N unconditional items where guidance is on."""
    return texts.guided(index) if halves(scale) == 2 else texts[torch.as_tensor(index)]


def apply_guidance(prediction: Tensor, scale: float) -> Tensor:
    """Return u + scale (c - u) of the two halves u and c, or the prediction where there is one half."""
    if halves(scale) == 1:
        return prediction
    unconditional, conditional = prediction.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def embed_scale(scale: float, width: int) -> Tensor:
    """Return the embedding (1,width) fp32 of a guidance scale: sines, then cosines, of 1000 (scale - 1).

    The scale is less by one than a user's, as in LatentConsistencyModelPipeline; an odd last channel is 0.
    """
    half = width // 2
    slope = torch.tensor(1e4, dtype=torch.float32).log() / (half - 1)
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -slope)
    phases = torch.tensor([scale - 1.0], dtype=torch.float32) * 1000 * rates
    return F.pad(torch.cat([phases.sin(), phases.cos()]), (0, width % 2))[None]
