"""The calls of a sampler: which timestep each UNet call gets, and which table row that is.

PNDM with 50 steps calls the UNet 51 times at 50 distinct timesteps: its second call repeats the
timestep of the third. Tables have one row per distinct timestep, in the order of first use.
"""

from dataclasses import dataclass
from typing import Any

from ..errors import UsageProblem


@dataclass(frozen=True)
class Schedule:
    """Timesteps by call, rows by call."""

    calls: tuple[float, ...]  # timestep of each UNet call

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The distinct timesteps: what the rows of a table stand for."""
        return tuple(dict.fromkeys(self.calls))

    @property
    def rows(self) -> tuple[int, ...]:
        """Row of each call."""
        index = {t: row for row, t in enumerate(self.timesteps)}
        return tuple(index[t] for t in self.calls)


def schedule_of(sampler: Any, steps: int) -> Schedule:
    """The calls `sampler` (a diffusers scheduler) makes for `steps` inference steps."""
    trained = int(sampler.config.num_train_timesteps)
    if not 1 <= steps <= trained:
        raise UsageProblem(f"--steps {steps}: expected 1..{trained}")
    try:
        sampler.set_timesteps(steps)
    except (ValueError, IndexError) as error:
        raise UsageProblem(f"--steps {steps}: {type(sampler).__name__} refuses it ({error})") from None
    return Schedule(tuple(float(t) for t in sampler.timesteps))
