"""The floating-point network as a teacher: its answers are computed when asked for, or cached in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .items import Batch, prediction
from .losses import collecting_outputs

CACHE_BYTES = 2 * 2**30  # the most that cached answers take


@dataclass(frozen=True)
class Answer:
    """The teacher's answer to a batch, which the student's is compared with."""

    prediction: Tensor  # (M,C,h,w) fp32
    features: dict[str, Tensor]  # outputs of the watched modules


class Teacher(Protocol):
    """A source of the floating-point network's answers."""

    def answer(self, batch: Batch) -> Answer:
        """Return the answer to a batch, without a graph."""


class TeacherNetwork:
    """A teacher that runs the network for every batch."""

    def __init__(self, network: nn.Module, watched: Sequence[str]) -> None:
        """`watched` names the modules whose outputs an answer includes."""
        self.network, self._watched = network, watched

    @torch.no_grad()
    def answer(self, batch: Batch) -> Answer:
        """Run the network on a batch."""
        with collecting_outputs(self.network, self._watched) as outputs:
            predicted = prediction(self.network, batch)
        return Answer(predicted, {name: outputs[name].float() for name in self._watched})


class CachedTeacher:
    """A teacher that keeps the answers to all items in main memory, where they fit.

    Once the cache is complete, the network is needed no more.
    """

    def __init__(self, network: TeacherNetwork, items: int, max_bytes: int = CACHE_BYTES) -> None:
        self._network, self._items, self._max_bytes = network, items, max_bytes
        self._cache: dict[str, Tensor] = {}
        self.complete = False

    def run(self, batch: Batch) -> None:
        """Run the network on a batch of stored items, which come in order, and keep its answer if all fit."""
        answer = self._network.answer(batch)
        parts = {"": answer.prediction, **answer.features}
        if self._max_bytes and not self._cache:
            needed = sum(part[0].numel() * 4 * self._items for part in parts.values())
            self._max_bytes = self._max_bytes if needed <= self._max_bytes else 0
        if not self._max_bytes:
            return
        assert batch.item is not None
        for name, part in parts.items():
            if name not in self._cache:
                self._cache[name] = torch.empty(self._items, *part.shape[1:])
            self._cache[name][batch.item] = part.cpu()
        self.complete = bool(batch.item.max() == self._items - 1)

    def answer(self, batch: Batch) -> Answer:
        """Look up the answer to a batch of stored items."""
        assert batch.item is not None
        features = {name: cached[batch.item].to(batch.x.device) for name, cached in self._cache.items()}
        predicted = features.pop("")
        return Answer(predicted, features)


class TeacherAccess:
    """The teacher of a calibration, held for as long as a phase needs it."""

    def __init__(self, network: nn.Module | None, cache: CachedTeacher | None = None) -> None:
        """`network` is None where no phase asks for it; `cache` where its answers are not to be kept."""
        self.network, self.cache = network, cache

    @property
    def is_cached(self) -> bool:
        """Whether the cache answers for all items."""
        return self.cache is not None and self.cache.complete

    def watching(self, names: Sequence[str] = ()) -> Teacher:
        """Return a teacher whose answers include the outputs of these modules."""
        if self.cache is not None and self.cache.complete:
            return self.cache
        assert self.network is not None
        return TeacherNetwork(self.network, names)
