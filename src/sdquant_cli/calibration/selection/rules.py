"""Which UNet calls of a trajectory give calibration latents: one rule each, by prompt.

A call counts from the noisy end, as the sampler runs; a rule that speaks of time t has t = 0 at the picture.
"""

import torch

from ...errors import UsageProblem
from ...models.noise import generator

DRAWS = 10_000  # for each call, before it counts as out of reach


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

    (PTQ4DM, NDTC: denser where pictures take shape; PQD as well.) Raises UsageProblem where so many calls are
    out of reach.
    """
    stream, found = generator("calls", seed, index), set[int]()
    for _ in range(DRAWS * count):
        if len(found) == count:
            return tuple(sorted(found))
        time = float(torch.randn((), generator=stream)) * deviation + mean
        from_picture = int(min(max(time, 0.0), 1.0) * (calls - 1) + 0.5)
        found.add(calls - 1 - from_picture)
    raise UsageProblem(
        f"--select-deviation {deviation:g}: {len(found)} of {calls} calls are within reach, --per-prompt "
        f"{count} needs more; take a larger deviation or fewer latents"
    )
