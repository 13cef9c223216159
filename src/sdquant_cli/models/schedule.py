"""The calls of a sampler: which timestep each call of the denoiser gets, and which table row that is.

PNDM with 50 steps calls the UNet 51 times at 50 distinct timesteps: its second call repeats the
timestep of the third. Tables have one row per distinct timestep, in the order of first use.
"""

from dataclasses import dataclass

from .samplers import Sampler


@dataclass(frozen=True)
class Schedule:
    """Timesteps by call, rows by call."""

    calls: tuple[float, ...]  # timestep of each call

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The distinct timesteps: what the rows of a table stand for."""
        return tuple(dict.fromkeys(self.calls))

    @property
    def rows(self) -> tuple[int, ...]:
        """Row of each call."""
        index = {t: row for row, t in enumerate(self.timesteps)}
        return tuple(index[t] for t in self.calls)


def schedule_of(sampler: Sampler) -> Schedule:
    """The calls of a sampler (a diffusers scheduler) whose timesteps are set."""
    return Schedule(tuple(float(t) for t in sampler.timesteps))
