"""The random numbers of a prompt, which follow from (seed, prompt index) alone.

The stream of prompt i is `torch.Generator("cpu")` seeded with the first 8 bytes, big-endian and without the
sign bit, of sha256("sdquant/<purpose>/<seed>/<i>"). So order, resume and the number of workers never change
an artifact, and different purposes never share numbers.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(purpose: str, seed: int, index: int) -> torch.Generator:
    """Return the random stream of one prompt for one purpose."""
    digest = hashlib.sha256(f"sdquant/{purpose}/{seed}/{index}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8]) >> 1)


def initial_noise(
    shape: tuple[int, ...], seed: int, indices: Sequence[int], purpose: str = "noise"
) -> Tensor:
    """Return standard normal latents (N,C,h,w) fp32, one stream per prompt index."""
    return torch.stack([torch.randn(shape, generator=generator(purpose, seed, i)) for i in indices])


def step_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """Return the streams of samplers that add noise at each step, one per prompt index."""
    return [generator("steps", seed, i) for i in indices]
