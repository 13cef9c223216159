"""Ranks: the processes that `torchrun` starts for one command, and what they tell each other.

Without torchrun there is one process, and nothing here costs anything: torch.distributed is imported by the
first exchange between ranks. Standard library only, until then.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import EnvironmentProblem, UsageProblem, first_line

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)  # for the slowest rank to come to an exchange
LOGS = "SDQUANT_RANK_LOGS"  # folder to which all ranks but the first write what they tell
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_BUCKET = 1 << 24  # numbers that are summed in one message


@dataclass(frozen=True)
class Ranks:
    """This process among all that run the same command."""

    rank: int = 0
    count: int = 1
    local: int = 0  # rank within the machine, which picks the GPU

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks for all: rank 0."""
        return self.rank == 0

    def rotated(self, units: Sequence[T]) -> list[T]:
        """Return units in the order in which this rank takes them: each rank begins elsewhere."""
        start = self.rank * len(units) // self.count
        return [*units[start:], *units[:start]]

    def part(self, units: Sequence[T]) -> Sequence[T]:
        """Return this rank's part of units, with which its order begins: all parts together are all units."""
        start, stop = (rank * len(units) // self.count for rank in (self.rank, self.rank + 1))
        return units[start:stop]


_scopes: list[Ranks] = []  # of `alone`


def current() -> Ranks:
    """Return this process's rank, from the variables that torchrun sets; raises UsageProblem."""
    return _scopes[-1] if _scopes else of(os.environ)


def of(environment: Mapping[str, str]) -> Ranks:
    """Return the rank in an environment, the only one if it has none; raises UsageProblem."""
    if "MASTER_ADDR" not in environment or not {"RANK", "WORLD_SIZE"} <= environment.keys():
        return Ranks()
    values = []
    for name in _VARIABLES:
        text = environment.get(name, "0")
        if not (text.isascii() and text.isdigit()):
            raise UsageProblem(f"{name}={text}: expected a number, as torchrun sets it; unset {name}")
        values.append(int(text))
    rank, count, local = values
    if rank >= count:
        raise UsageProblem(f"RANK={rank}: expected less than WORLD_SIZE={count}; unset both, or use torchrun")
    return Ranks(rank, count, local)


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process is the only one: work that other ranks do not take part in."""
    _scopes.append(Ranks())
    try:
        yield
    finally:
        _scopes.pop()


# ----------------------------------------------------------------------------- exchanges


def agree(values: Mapping[str, object]) -> None:
    """Raise UsageProblem, on all ranks, that names the first value that is not the same on all of them."""
    if current().count == 1:
        return
    dist = _group()
    mine = {name: str(value) for name, value in values.items()}
    everyone: list[dict[str, str]] = [{} for _ in range(current().count)]
    with _plain_errors():
        dist.monitored_barrier(timeout=PATIENCE, wait_all_ranks=True)  # names the ranks that are lost
        dist.all_gather_object(everyone, mine)
    for rank, theirs in enumerate(everyone):
        for name in everyone[0] | theirs:
            first, other = everyone[0].get(name), theirs.get(name)
            if first != other:
                raise UsageProblem(
                    f"rank {rank}: {name} is {other}, of rank 0 it is {first}; start all ranks with the same "
                    f"command, version, model and number of threads"
                )


def broadcast(value: T) -> T:
    """Return the first rank's value."""
    if current().count == 1:
        return value
    values = [value]
    with _plain_errors():
        _group().broadcast_object_list(values, src=0)
    return values[0]


def add(tensors: Sequence["Tensor"]) -> None:
    """Replace tensors, of the same shapes on all ranks, by their sums over ranks: the same bits on each."""
    if current().count == 1:
        return
    import torch

    dist = _group()
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.detach().flatten() for tensor in bucket])
        with _plain_errors():
            dist.all_reduce(flat, group=_sums(dist, flat))
        sizes = [tensor.numel() for tensor in bucket]
        for tensor, total in zip(bucket, flat.split(sizes), strict=True):
            tensor.detach().copy_(total.view_as(tensor))


def _buckets(tensors: Sequence["Tensor"]) -> Iterator[list["Tensor"]]:
    """Yield the tensors in groups of one dtype, none much larger than a message should be."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(other.numel() for other in bucket) >= _BUCKET
        if bucket and (full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _group() -> Any:
    """Return torch.distributed, its processes connected over gloo, as torchrun says."""
    import torch.distributed as dist

    if not dist.is_initialized():
        with _plain_errors():
            dist.init_process_group("gloo", timeout=PATIENCE)
    return dist


_nccl: list[Any] = []


def _sums(dist: Any, tensor: "Tensor") -> Any:
    """Return the group in which tensors are summed: NCCL where each rank has a GPU of its own."""
    import torch

    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not tensor.is_cuda or on_this_machine > torch.cuda.device_count():
        return None
    if not _nccl:
        _nccl.append(dist.new_group(backend="nccl"))
    return _nccl[0]


def leave() -> None:
    """Disconnect from the other ranks, at the end of a command."""
    import sys

    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        _nccl.clear()
        dist.destroy_process_group()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn an error of a connection into one line; torch raises RuntimeError for all of them."""
    try:
        yield
    except RuntimeError as error:
        raise EnvironmentProblem(
            f"rank {current().rank}: {first_line(error)}; stored data is intact, start the same command again"
        ) from None
