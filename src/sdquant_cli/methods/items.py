"""Calibration items: latents with their timesteps and text, conditional and unconditional alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.condition import Condition, predict


@dataclass(frozen=True)
class Batch:
    """UNet inputs. Items come in pairs: the first half unconditional, the second conditional."""

    x: Tensor  # (2B,C,h,w)
    timestep: Tensor  # (2B)
    row: Tensor  # (2B)
    condition: Condition  # of 2B
    item: Tensor | None = None  # (2B) place among the 2N stored items, for those that are

    def __getitem__(self, index: Tensor) -> "Batch":
        row, item = (None if part is None else part[index.cpu()] for part in (self.row, self.item))
        assert row is not None
        return Batch(self.x[index], self.timestep[index], row, self.condition[index], item)

    def parts(self, count: int) -> "list[Batch]":
        """The batch in `count` batches of about equal size, pairs kept together."""
        if count == 1:
            return [self]
        pairs = len(self.x) // 2
        firsts = torch.arange(pairs, device=self.x.device).chunk(count)
        return [self[torch.cat([first, first + pairs])] for first in firsts]


def prediction(network: Any, batch: Batch) -> Tensor:
    """Return the network's prediction (items,C,h,w) fp32 for a batch."""
    return predict(network, batch.x, batch.timestep, batch.condition)


@dataclass(frozen=True)
class Items:
    """All calibration latents of an artifact, in memory as stored (fp16)."""

    x: Tensor  # (N,C,h,w), as the UNet sees it
    row: Tensor  # (N) row of each latent's timestep
    text: Tensor  # (N) index into the texts
    texts: Condition  # of P prompts, the unconditional one at 0
    timesteps: Tensor  # (rows)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, picks: Sequence[int] | Tensor, device: torch.device) -> Batch:
        """The picked latents, each with and without its prompt."""
        index = torch.as_tensor(picks)
        return self.some(torch.cat([index, len(self) + index]), device)

    def some(self, item: Tensor, device: torch.device) -> Batch:
        """Any of the 2N items: latent i without its prompt is item i, with it N + i."""
        latent, given = item % len(self), item >= len(self)
        row = self.row[latent]
        text = torch.where(given, self.text[latent], 0)
        return Batch(
            self.x[latent].float().to(device),
            self.timesteps[row].to(device),
            row,
            self.texts[text].to(device),
            item,
        )


def shuffled(count: int, batch: int, iteration: int, seed: int) -> Tensor:
    """Items of one iteration: every epoch visits all items once in an order of its own.

    Depends on the arguments alone, so a resumed run draws what an undisturbed one draws.
    """
    per_epoch = max(1, count // batch)
    epoch, place = divmod(iteration, per_epoch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[place * batch : (place + 1) * batch]
