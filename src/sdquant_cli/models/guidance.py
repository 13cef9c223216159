"""Classifier-free guidance, which a scale at or below 1 turns off, as in diffusers.

With guidance every prompt is two items, the unconditional half of a batch first; without it, one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from .conditioning import Conditioning


def halves(scale: float) -> int:
    """Return how many items of the network each prompt is."""
    return 2 if scale > 1 else 1


def repeat_for_guidance(x: Tensor, scale: float) -> Tensor:
    """The network's inputs, of latents or timesteps (N,...): once for each half."""
    return x.repeat(halves(scale), *[1] * (x.dim() - 1))


def batch_conditioning(
    texts: Conditioning, index: Tensor | Sequence[int] | NDArray[Any], scale: float
) -> Conditioning:
    """The text of a batch: that of `index` (N), behind N times the first, unconditional one with guidance."""
    return texts.guided(index) if halves(scale) == 2 else texts[torch.as_tensor(index)]


def apply_guidance(prediction: Tensor, scale: float) -> Tensor:
    """Return u + scale (c - u) (N,...) of both halves for the sampler, or the prediction as it is."""
    if halves(scale) == 1:
        return prediction
    unconditional, conditional = prediction.chunk(2)
    return unconditional + scale * (conditional - unconditional)
