"""The calls of a sampler: the timestep of each call of the denoiser, and its row in a table.

PNDM with 50 steps calls the UNet 51 times at 50 distinct timesteps: its second call repeats the timestep of
the third. Tables have one row per distinct timestep, in the order of first use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageProblem
from .samplers import Sampler, is_flow

SMALLEST = 1e-8  # share of signal or noise that a log-SNR is computed of, so that it is finite


@dataclass(frozen=True)
class Schedule:
    """Timesteps by call, rows by call."""

    calls: tuple[float, ...]  # timestep of each call

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The distinct timesteps, one for each row of a table."""
        return tuple(dict.fromkeys(self.calls))

    @property
    def rows(self) -> tuple[int, ...]:
        """The row of each call."""
        timesteps = self.timesteps
        return tuple(map(timesteps.index, self.calls))


def schedule_of(sampler: Sampler) -> Schedule:
    """Return the calls of a sampler whose timesteps are set."""
    return Schedule(tuple(map(float, sampler.timesteps)))


def log_snr(sampler: Sampler, timesteps: Sequence[float]) -> Tensor:
    """Return the logarithm of the signal-to-noise ratio (R) fp64 of latents at timesteps of a sampler.

    It is log(a / (1 - a)) of the share a of the signal's variance, linear between the trained timesteps; in
    flow matching, whose latents are (1 - s) x + s noise at timestep 1000 s, it is 2 log((1 - s) / s). Raises
    UsageProblem for a sampler of neither kind.
    """
    t = torch.tensor(timesteps, dtype=torch.float64)
    if is_flow(sampler):
        noise = (t / float(sampler.config["num_train_timesteps"])).clamp(SMALLEST, 1 - SMALLEST)
        return 2 * ((1 - noise).log() - noise.log())
    products: Tensor | None = getattr(sampler, "alphas_cumprod", None)
    if products is None:
        name = type(sampler).__name__
        raise UsageProblem(
            f"--scheduler {name}: does not say how noisy its latents are, which interpolated tables need; "
            f"choose another scheduler, or draw with --step-match nearest"
        )
    signal = products.double().clamp(SMALLEST, 1 - SMALLEST)
    trained = signal.log() - (1 - signal).log()
    lower = t.floor().long().clamp(0, len(trained) - 1)
    upper = (lower + 1).clamp(max=len(trained) - 1)
    return torch.lerp(trained[lower], trained[upper], (t - lower).clamp(0, 1))
