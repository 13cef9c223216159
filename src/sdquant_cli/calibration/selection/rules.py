"""Rules that choose the UNet calls of a trajectory whose inputs become calibration latents, by prompt.

Calls are counted from the noisy end, as the sampler runs; a rule about time t has t = 0 at the picture.
"""

import torch

from ...errors import UsageProblem
from ...models.noise import generator
from ...types import Select

RULES: dict[Select, dict[str, float]] = {  # the values that a rule takes, and their defaults
    Select.RANDOM: {},
    Select.STRIDE: {},
    Select.NORMAL: {"mean": 0.4, "deviation": 0.4},  # as PTQ4DM's script has them
    Select.DENSITY: {"variety": 5.0, "radius": 0.3},  # as EDA-DM's script for SD; our own
}
DRAWS = 10_000  # for each call, after which it is out of reach


def at_random(calls: int, count: int, seed: int, index: int) -> tuple[int, ...]:
    """Return `count` distinct calls, ascending (Efficiency Meets Fidelity, Algorithm 1, line 3)."""
    order = torch.randperm(calls, generator=generator("calls", seed, index))
    return tuple(sorted(order[:count].tolist()))


def at_stride(calls: int, count: int, index: int) -> tuple[int, ...]:
    """Return `count` calls at equal distances (Q-Diffusion, calibration data).

    They are shifted by one for each prompt, so that prompts together visit all calls equally often, even if
    each gives one latent.
    """
    return tuple(sorted((index + i * calls // count) % calls for i in range(count)))


def normally(calls: int, count: int, seed: int, index: int, mean: float, deviation: float) -> tuple[int, ...]:
    """Return `count` distinct calls whose times are normally distributed, in units of the whole schedule.

    (PTQ4DM, NDTC: denser where pictures take shape; PQD as well.) Times are cut to 0..1. Raises UsageProblem
    if so many calls are out of reach.
    """
    stream, chosen = generator("calls", seed, index), set[int]()
    for _ in range(DRAWS * count):
        if len(chosen) == count:
            return tuple(sorted(chosen))
        time = float(torch.randn((), generator=stream)) * deviation + mean
        from_picture = int(min(max(time, 0.0), 1.0) * (calls - 1) + 0.5)
        chosen.add(calls - 1 - from_picture)
    raise UsageProblem(
        f"--select-deviation {deviation:g}: {len(chosen)} of {calls} calls are within reach, --per-prompt "
        f"{count} needs more; use a larger deviation or fewer latents"
    )
