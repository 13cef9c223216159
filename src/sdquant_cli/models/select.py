"""Which UNet calls of a trajectory give calibration latents: one rule each, by prompt.

A call counts from the noisy end, as the sampler runs; a rule that speaks of time t has t = 0 at the picture.
"""

import torch

from .noise import generator


def at_random(calls: int, count: int, seed: int, index: int) -> tuple[int, ...]:
    """`count` distinct calls, ascending (Efficiency Meets Fidelity, Algorithm 1, line 3)."""
    order = torch.randperm(calls, generator=generator("calls", seed, index))
    return tuple(sorted(order[:count].tolist()))


def at_stride(calls: int, count: int, index: int) -> tuple[int, ...]:
    """`count` calls at equal distances (Q-Diffusion, calibration data), begun one later for each prompt.

    So prompts together visit all calls equally often, also where each gives one latent.
    """
    return tuple(sorted((index + place * calls // count) % calls for place in range(count)))


def normally(calls: int, count: int, seed: int, index: int, mean: float, deviation: float) -> tuple[int, ...]:
    """`count` distinct calls whose times are normal about `mean`, in units of the whole schedule, cut to it.

    (PTQ4DM, NDTC: denser where pictures take shape; PQD as well.)
    """
    stream, found = generator("calls", seed, index), set[int]()
    while len(found) < count:
        time = float(torch.randn((), generator=stream)) * deviation + mean
        from_picture = int(min(max(time, 0.0), 1.0) * (calls - 1) + 0.5)
        found.add(calls - 1 - from_picture)
    return tuple(sorted(found))
