"""The floating-point network's answers: computed when asked, or remembered from one pass over all items."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .items import Batch, prediction
from .losses import collecting_outputs

CACHE_BYTES = 2 * 2**30  # bytes that remembered answers may take


@dataclass(frozen=True)
class Answer:
    """To a batch: what the student is compared with."""

    prediction: Tensor  # (M,C,h,w) fp32
    features: dict[str, Tensor]  # outputs of the watched modules


class Teacher(Protocol):
    """Knows what the floating-point network says."""

    def answer(self, batch: Batch) -> Answer:
        """The answer to a batch, without a graph."""


class TeacherNetwork:
    """Runs the network for every batch."""

    def __init__(self, network: Any, watched: Sequence[str]) -> None:
        self.network, self._watched = network, watched

    @torch.no_grad()
    def answer(self, batch: Batch) -> Answer:
        with collecting_outputs(self.network, self._watched) as outputs:
            predicted = prediction(self.network, batch)
        return Answer(predicted, {name: outputs[name].float() for name in self._watched})


class CachedTeacher:
    """Answers to all items, kept in main memory where they fit; then the network is needed no more."""

    def __init__(self, live: TeacherNetwork, items: int, room: int = CACHE_BYTES) -> None:
        self._live, self._items, self._room = live, items, room
        self._kept: dict[str, Tensor] = {}
        self.complete = False

    def run(self, batch: Batch) -> None:
        """Run the network on a batch of stored items and keep what it says, while there is room."""
        answer = self._live.answer(batch)
        parts = {"": answer.prediction, **answer.features}
        if self._room and not self._kept:
            needed = sum(part[0].numel() * 4 * self._items for part in parts.values())
            self._room = self._room if needed <= self._room else 0
        if not self._room:
            return
        assert batch.item is not None
        for name, part in parts.items():
            if name not in self._kept:
                self._kept[name] = torch.empty(self._items, *part.shape[1:])
            self._kept[name][batch.item] = part.cpu()
        self.complete = bool(batch.item.max() == self._items - 1)  # batches come in order

    def answer(self, batch: Batch) -> Answer:
        assert batch.item is not None
        found = {name: kept[batch.item].to(batch.x.device) for name, kept in self._kept.items()}
        return Answer(found.pop(""), found)
