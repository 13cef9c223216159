"""The calls of a sampler: the timestep of each call of the denoiser, and its row in a table.

PNDM with 50 steps calls the UNet 51 times at 50 distinct timesteps: its second call repeats the timestep of
the third. Tables have one row per distinct timestep, in the order of first use.
"""

from dataclasses import dataclass

from .samplers import Sampler


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
