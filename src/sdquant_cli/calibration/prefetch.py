"""Prefetching of batches: the next is read from the store and copied while the last one is computed on."""

from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from .items import Batch
from .sources import Source


class Prefetched:
    """The batches of a source that learns nothing from predictions, each read before it is asked for."""

    learns = False

    def __init__(self, source: Source) -> None:
        self._source, self._worker = source, ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Batch]] | None = None

    def batch(self, iteration: int) -> Batch:
        """Return the inputs of one update, and begin with those of the next."""
        if self._next is not None and self._next[0] == iteration:
            batch = self._next[1].result()
        else:
            batch = self._source.batch(iteration)
        self._next = iteration + 1, self._worker.submit(self._source.batch, iteration + 1)
        return batch

    def learn(self, prediction: Tensor) -> None:
        """Do nothing: the next batch does not depend on the prediction."""


def prefetched(source: Source) -> Source:
    """Return a source with its batches prefetched, unless they depend on predictions."""
    return source if source.learns else Prefetched(source)
