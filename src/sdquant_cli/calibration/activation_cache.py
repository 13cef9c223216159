"""Arguments and outputs of one module over all calibration items: in memory, or on disk beyond a bound.

A run of the network stops at the module, so that the modules after it do not run.
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

Nested = Any  # tensors and other values in tuples, lists and dictionaries: arguments, or an output


@dataclass
class TensorPool:
    """Storage for captured tensors: `bytes` of main memory, then files in a folder."""

    bytes: int
    folder: Path

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return an empty tensor in main memory while it fits; else in a file deleted with the tensor.

        Raises EnvironmentProblem if the file cannot be written.
        """
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
class ActivationCache:
    """A nested value (arguments, or an output) of N items, each tensor in one column."""

    items: int
    pool: TensorPool
    columns: dict[int, Tensor] = field(default_factory=dict)  # index among the leaves -> (N,...)
    constants: list[object] = field(default_factory=list)  # leaves; None where a tensor is
    tree: TreeSpec | None = None

    def add(self, value: Nested, index: Tensor) -> None:
        """Store the value of the items of an index (n); each of its tensors is (n,...)."""
        leaves, self.tree = tree_flatten(value)
        if not self.columns:
            self.constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        for column, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                if column not in self.columns:
                    self.columns[column] = self.pool.tensor((self.items, *leaf.shape[1:]), leaf.dtype)
                self.columns[column][index] = leaf.detach().cpu()

    def __getitem__(self, index: Tensor) -> Nested:
        """Return the value of the items of an index (n)."""
        assert self.tree is not None
        leaves = list(self.constants)
        for column, values in self.columns.items():
            leaves[column] = values[index]
        return tree_unflatten(leaves, self.tree)

    def free(self) -> None:
        """Return the memory to the pool."""
        for values in self.columns.values():
            if values.untyped_storage().filename is None:
                self.pool.bytes += values.nbytes
        self.columns = {}


class _ReachedError(Exception):
    """The module has run, and the modules after it need not."""


@contextmanager
def stopping_at(
    module: nn.Module,
    see_inputs: Callable[[Nested], None],
    see_output: Callable[[Nested], None] | None = None,
) -> Iterator[None]:
    """End a run of a network at one of its modules, without error.

    `see_inputs` is called with (args, kwargs). The module itself runs if there is a `see_output`.
    """

    def before(_name: str, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        see_inputs((args, kwargs))
        if see_output is None:
            raise _ReachedError

    def after(_name: str, output: Nested) -> None:
        assert see_output is not None
        see_output(output)
        raise _ReachedError

    inputs = watching_inputs({"module": module}, before)
    outputs = watching_outputs({} if see_output is None else {"module": module}, after)
    with suppress(_ReachedError), inputs, outputs:
        yield


def to_device(value: Nested, device: torch.device) -> Nested:
    """Return the nested value with its tensors on a device."""
    leaves, tree = tree_flatten(value)
    return tree_unflatten([x.to(device) if isinstance(x, Tensor) else x for x in leaves], tree)


def mix(value: Nested, other: Nested, share: float, generator: torch.Generator) -> Nested:
    """Return the nested value with a share of its tensors' numbers, at random, from the other."""
    if not share:
        return value
    leaves, tree = tree_flatten(value)
    others, _ = tree_flatten(other)
    chosen: list[object] = []
    for x, y in zip(leaves, others, strict=True):
        if isinstance(x, Tensor):
            x = torch.where(torch.rand(x.shape, generator=generator) < share, y, x)
        chosen.append(x)
    return tree_unflatten(chosen, tree)
