"""Arguments and outputs of one module over all calibration items: in memory, or on disk beyond a bound.

A run of the network is stopped at the module, so that what comes after it is not computed.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ..errors import EnvironmentProblem, first_line
from ..hooks import watching_inputs, watching_outputs


@dataclass
class TensorPool:
    """Where captured tensors lie: `bytes` of main memory, then files in a folder."""

    bytes: int
    folder: Path

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An empty tensor in main memory while it fits; else in a file that goes with the tensor."""
        count = torch.Size(shape).numel()
        size = count * dtype.itemsize
        if size <= self.bytes:
            self.bytes -= size
            return torch.empty(shape, dtype=dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder) as file:
                file.truncate(size)
                return torch.from_file(file.name, shared=True, size=count, dtype=dtype).view(shape)
        except (OSError, RuntimeError) as error:
            raise EnvironmentProblem(
                f"{self.folder}: {first_line(error)}; {size:,} bytes of calibration cache"
            ) from None


@dataclass
class Captured:
    """A nested value (arguments, or an output) of N items, whatever its tensors are."""

    items: int
    room: TensorPool
    columns: dict[int, Tensor] = field(default_factory=dict)  # place among the leaves -> (N,...)
    constants: list[Any] = field(default_factory=list)  # leaves that are no tensors
    tree: TreeSpec | None = None

    def add(self, value: Any, index: Tensor) -> None:
        """Take in the value of the items of an index (n); its tensors have an entry for each."""
        leaves, self.tree = tree_flatten(value)
        if not self.columns:
            self.constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                if place not in self.columns:
                    self.columns[place] = self.room.tensor((self.items, *leaf.shape[1:]), leaf.dtype)
                self.columns[place][index] = leaf.detach().cpu()

    def __getitem__(self, index: Tensor) -> Any:
        """The value of the items of an index (n)."""
        assert self.tree is not None
        leaves = [
            self.columns[place][index] if place in self.columns else constant
            for place, constant in enumerate(self.constants)
        ]
        return tree_unflatten(leaves, self.tree)

    def free(self) -> None:
        """Give the room back."""
        self.room.bytes += sum(
            c.nbytes for c in self.columns.values() if c.untyped_storage().filename is None
        )
        self.columns = {}


class _ReachedError(Exception):
    """The module has run; nothing after it is wanted."""


@contextmanager
def stopping_at(
    module: nn.Module,
    see_inputs: Callable[[Any], None],
    see_output: Callable[[Any], None] | None = None,
) -> Iterator[None]:
    """Within: a run of a network that contains the module ends there, without error.

    `see_inputs` is given (args, kwargs). With `see_output` the module itself is run.
    """

    def before(_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see_inputs((args, kwargs))
        if see_output is None:
            raise _ReachedError

    def after(_name: str, output: Any) -> None:
        assert see_output is not None
        see_output(output)
        raise _ReachedError

    inputs = watching_inputs({"module": module}, before)
    outputs = watching_outputs({} if see_output is None else {"module": module}, after)
    with suppress(_ReachedError), inputs, outputs:
        yield


def to_device(value: Any, device: torch.device) -> Any:
    """The nested value with its tensors on a device."""
    leaves, tree = tree_flatten(value)
    return tree_unflatten([x.to(device) if isinstance(x, Tensor) else x for x in leaves], tree)


def mixed(value: Any, other: Any, share: float, generator: torch.Generator) -> Any:
    """The nested value with a share of its tensors' numbers, at random, from the other."""
    if not share:
        return value
    leaves, tree = tree_flatten(value)
    others, _ = tree_flatten(other)
    both = zip(leaves, others, strict=True)
    return tree_unflatten([_mix(x, y, share, generator) for x, y in both], tree)


def _mix(x: Any, y: Any, share: float, generator: torch.Generator) -> Any:
    if not isinstance(x, Tensor):
        return x
    return torch.where(torch.rand(x.shape, generator=generator) < share, y, x)
