"""Data parallelism of training: each rank takes a share of every batch, and what they find is summed.

The batch is that of the spec, whatever the number of ranks, and so are its losses and gradients but for the
order in which numbers are added.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ranks import add, current
from .items import Batch


@dataclass(frozen=True)
class Share:
    """A rank's share of one part of a batch."""

    batch: Batch
    index: Tensor  # (M) of its items in the whole batch
    of_part: float  # the share of the part's latents, 0 for a rank that has none of its own
    of_batch: float  # the share of the batch's

    def averages(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return averages over all items of the part, from the averages (numbers) over each share."""
        if current().count == 1 or not values:
            return dict(values)
        sums = torch.stack(list(values.values())) * self.of_part
        add([sums])
        return dict(zip(values, sums, strict=True))


def shares(batch: Batch, accumulate: int) -> Iterator[Share]:
    """Yield this rank's share of each of the parts that a batch is split into.

    A rank without latents of its own takes the first rank's, counted as none: all ranks compute gradients of
    the same parameters.
    """
    rank = current()
    for part in batch.parts(accumulate):
        pieces = batch[part].parts(rank.count)
        mine = rank.rank < len(pieces)
        index = part[pieces[rank.rank if mine else 0]]
        of_part = len(index) / len(part) if mine else 0.0
        yield Share(batch[index], index, of_part, of_part * len(part) / len(batch.x))


def join(predictions: Sequence[Tensor], found: Sequence[Share], count: int) -> Tensor:
    """Return the predictions (count,C,h,w) of a batch from those of the shares of all ranks."""
    whole = predictions[0].new_zeros(count, *predictions[0].shape[1:])
    for predicted, share in zip(predictions, found, strict=True):
        if share.of_part:
            whole[share.index] = predicted
    add([whole])
    return whole


@torch.no_grad()
def follow_the_first(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by those of the first rank, in place."""
    if not current().is_first:
        for tensor in tensors:
            tensor.detach().zero_()
    add(tensors)
