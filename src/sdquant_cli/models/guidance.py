"""Classifier-free guidance (Ho & Salimans 2022), which a scale at or below 1 turns off, as in diffusers.

With guidance each prompt takes two items of a batch, and the unconditional half comes first.
"""

import torch
from torch import Tensor

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
