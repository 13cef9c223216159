"""Which row of the per-step tables each item of the current batch uses.

The row follows from the timestep that the network is called with, and from nothing else: no
counter can get out of step.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageProblem

TOLERANCE = 1e-3  # float timesteps differ by rounding; integers are 1 apart


class Rows:
    """Rows by timestep, shared by every table of one network."""

    def __init__(self, timesteps: Sequence[float], *, nearest: bool = False) -> None:
        """`nearest`: a timestep that no row stands for takes that of the nearest."""
        self.timesteps = torch.tensor(timesteps, dtype=torch.float64)
        self._tolerance = torch.inf if nearest else TOLERANCE
        self._current: Tensor | None = None
        self.shared: int | None = None  # the row of the batch in hand, where all items have the same

    def find(self, timestep: Tensor) -> Tensor:
        """Row of each timestep; raises UsageProblem for one that no row stands for, unless `nearest`."""
        wanted = timestep.detach().to("cpu", torch.float64).reshape(-1)
        distance, row = (wanted[:, None] - self.timesteps[None]).abs().min(dim=1)
        if bool((distance > self._tolerance).any()):
            found = float(wanted[distance > self._tolerance][0])
            raise UsageProblem(
                f"timestep {found:g} is not among the {len(self.timesteps)} calibrated ones "
                f"({self.timesteps[0]:g} ... {self.timesteps[-1]:g}); use the same scheduler and number "
                f"of steps"
            )
        return row

    def current(self, items: int) -> Tensor:
        """Rows (items,) of the batch in hand, or (1,) where all items share one; where its timesteps are."""
        if self._current is None or len(self._current) not in (1, items):
            raise RuntimeError("rows are set by calling the network that follows them")
        return self._current

    def follow(self, network: nn.Module) -> None:
        """From now on calling `network(x, timestep, ...)` sets the current rows."""
        network.register_forward_pre_hook(self._before_call, with_kwargs=True)

    def set(self, timestep: Tensor) -> None:
        """Items at these timesteps (N) are in hand, or all at one."""
        found = self.find(timestep)
        self._current = found.to(timestep.device)  # here once, not in every layer
        first = int(found[0])
        self.shared = first if bool((found == first).all()) else None

    def _before_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.set(torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[1]))
