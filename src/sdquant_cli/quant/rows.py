"""Rows: which entry of the per-timestep tables each item of the current batch uses.

The row follows from the timestep that the network is called with, and from nothing else: no
counter can get out of step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import UsageProblem

TOLERANCE = 1e-3  # float timesteps differ by rounding; integers are 1 apart


class Rows:
    """The rows of the timesteps of one network, shared by all its tables."""

    def __init__(self, timesteps: Sequence[float], *, nearest: bool = False) -> None:
        """Take the timestep of each row; `nearest`: any other timestep takes the nearest one's row."""
        self.timesteps = torch.tensor(timesteps, dtype=torch.float64)
        self._tolerance = torch.inf if nearest else TOLERANCE
        self._current: Tensor | None = None
        self.shared: int | None = None  # the row of the current batch, if all items have the same

    def find(self, timestep: Tensor) -> Tensor:
        """Return the row of each timestep; raise UsageProblem for an unknown one, unless `nearest`."""
        timesteps = timestep.detach().to("cpu", torch.float64).reshape(-1)
        distance, row = (timesteps[:, None] - self.timesteps[None]).abs().min(dim=1)
        if bool((distance > self._tolerance).any()):
            unknown = float(timesteps[distance > self._tolerance][0])
            raise UsageProblem(
                f"timestep {unknown:g} is not among the {len(self.timesteps)} calibrated ones "
                f"({self.timesteps[0]:g} ... {self.timesteps[-1]:g}); use the same scheduler and number "
                f"of steps"
            )
        return row

    def current(self, items: int) -> Tensor:
        """Return the rows (items) of the current batch, or (1) if it has one timestep, on its device."""
        rows = self.index()
        if len(rows) not in (1, items):
            raise RuntimeError(f"a batch of {items} items has {len(rows)} timesteps")
        return rows

    def index(self) -> Tensor:
        """Return the rows of the current batch as they were set: (N), or (1) if it has one timestep."""
        if self._current is None:
            raise RuntimeError("rows are not set: call the network that they follow")
        return self._current

    def follow(self, network: nn.Module) -> None:
        """Set the current rows in every later call `network(x, timestep, ...)`; the hook stays on."""
        network.register_forward_pre_hook(self._before_call, with_kwargs=True)

    def set(self, timestep: Tensor) -> None:
        """Set the timesteps of the current batch: (N), or (1) for all items."""
        row = self.find(timestep)
        self._current = row.to(timestep.device)  # here once, not in every layer
        first = int(row[0])
        self.shared = first if bool((row == first).all()) else None

    def _before_call(self, _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self.set(torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[1]))
