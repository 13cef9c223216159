"""Calibration items: latents with their timesteps and text.

With guidance the network sees every latent without its prompt and with it, two items; else with it alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.conditioning import Conditioning, predict
from ..models.guidance import halves


@dataclass(frozen=True)
class Batch:
    """The network's inputs: all unconditional items, if there are any, before all conditional ones."""

    x: Tensor  # (M,C,h,w)
    timestep: Tensor  # (M)
    row: Tensor  # (M)
    conditioning: Conditioning  # of M
    item: Tensor | None = None  # (M) place among all stored items, for those that are
    halves: int = 2  # items of each latent

    def __getitem__(self, index: Tensor) -> "Batch":
        row, item = (None if part is None else part[index.cpu()] for part in (self.row, self.item))
        assert row is not None
        return Batch(self.x[index], self.timestep[index], row, self.conditioning[index], item, self.halves)

    def parts(self, count: int) -> "list[Batch]":
        """The batch in `count` batches of about equal size, the items of a latent kept together."""
        if count == 1:
            return [self]
        latents = len(self.x) // self.halves
        by_half = torch.arange(len(self.x), device=self.x.device).view(self.halves, latents)
        return [self[part.flatten()] for part in by_half.chunk(count, dim=1)]


def prediction(network: Any, batch: Batch) -> Tensor:
    """Return the network's prediction (items,C,h,w) fp32 for a batch."""
    return predict(network, batch.x, batch.timestep, batch.conditioning)


@dataclass(frozen=True)
class Items:
    """All calibration latents of an artifact, in memory as stored (fp16)."""

    x: Tensor  # (N,C,h,w), as the UNet sees it
    row: Tensor  # (N) row of each latent's timestep
    text: Tensor  # (N) index into the texts
    texts: Conditioning  # of P prompts, the unconditional one at 0
    timesteps: Tensor  # (rows)
    guidance_scale: float

    def __len__(self) -> int:
        return len(self.x)

    @property
    def halves(self) -> int:
        """Items of each latent."""
        return halves(self.guidance_scale)

    @property
    def count(self) -> int:
        """All items there are."""
        return self.halves * len(self)

    def batch(self, picks: Sequence[int] | Tensor, device: torch.device) -> Batch:
        """All items of the picked latents."""
        index = torch.as_tensor(picks)
        return self.some(torch.cat([half * len(self) + index for half in range(self.halves)]), device)

    def some(self, item: Tensor, device: torch.device) -> Batch:
        """Any items: latent i has items i and, with guidance, N + i; its prompt is the last one's."""
        latent, conditional = item % len(self), item // len(self) == self.halves - 1
        row = self.row[latent]
        text = torch.where(conditional, self.text[latent], 0)
        return Batch(
            self.x[latent].float().to(device),
            self.timesteps[row].to(device),
            row,
            self.texts[text].to(device),
            item,
            self.halves,
        )


def shuffled(count: int, batch: int, iteration: int, seed: int) -> Tensor:
    """Items of one iteration: every epoch visits all items once in an order of its own.

    Depends on the arguments alone, so a resumed run draws what an undisturbed one draws.
    """
    per_epoch = max(1, count // batch)
    epoch, place = divmod(iteration, per_epoch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[place * batch : (place + 1) * batch]
