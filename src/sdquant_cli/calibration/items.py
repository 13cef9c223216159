"""Calibration items: latents with their timesteps and text.

With guidance the network sees every latent without its prompt and with it, as two items; without guidance,
with its prompt alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.conditioning import Conditioning, predict
from ..models.guidance import halves


@dataclass(frozen=True)
class Batch:
    """Inputs of the network: all unconditional items, if there are any, before all conditional ones."""

    x: Tensor  # (M,C,h,w)
    timestep: Tensor  # (M)
    row: Tensor  # (M) row of each timestep in the per-timestep tables
    conditioning: Conditioning  # of M items
    item: Tensor | None = None  # (M) index among all stored items; None: the items are not stored
    halves: int = 2  # items of each latent

    def __getitem__(self, index: Tensor) -> "Batch":
        """Return the items at ascending indices, held on the CPU so that no GPU is waited for."""
        if len(index) == len(self.x):
            return self
        on_device = index.to(self.x.device)
        return Batch(
            self.x[on_device],
            self.timestep[on_device],
            self.row[index],
            self.conditioning[on_device],
            None if self.item is None else self.item[index],
            self.halves,
        )

    def parts(self, count: int) -> list[Tensor]:
        """Return the items of `count` parts of about equal size; those of a latent stay together."""
        by_half = torch.arange(len(self.x)).view(self.halves, -1)
        return [part.flatten() for part in by_half.chunk(count, dim=1)]


def prediction(network: nn.Module, batch: Batch) -> Tensor:
    """Return the network's prediction (M,C,h,w) fp32 for a batch."""
    return predict(network, batch.x, batch.timestep, batch.conditioning)


@dataclass(frozen=True)
class Items:
    """All calibration latents of an artifact, in memory as stored (fp16)."""

    x: Tensor  # (N,C,h,w), as the UNet sees it, its context included
    row: Tensor  # (N) row of each latent's timestep
    text: Tensor  # (N) index into the texts
    texts: Conditioning  # of P prompts, the unconditional one at 0
    timesteps: Tensor  # (rows)
    guidance_scale: float
    context_channels: int = 0  # of `x`, the last ones

    def __len__(self) -> int:
        return len(self.x)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape (C,h,w) of a latent without its context."""
        channels, *sides = self.x.shape[1:]
        return (channels - self.context_channels, *sides)

    def context(self, index: Tensor) -> Tensor | None:
        """Return the contexts (M,X,h,w) fp32 of latents by number (M), from the first on after the last."""
        if not self.context_channels:
            return None
        return self.x[index % len(self)][:, -self.context_channels :].float()

    @property
    def halves(self) -> int:
        """The number of items of each latent."""
        return halves(self.guidance_scale)

    @property
    def count(self) -> int:
        """The number of all items."""
        return self.halves * len(self)

    def batch(self, picks: Sequence[int] | Tensor, device: torch.device) -> Batch:
        """Return all items of the picked latents."""
        index = torch.as_tensor(picks)
        return self.some(torch.cat([half * len(self) + index for half in range(self.halves)]), device)

    def batches(self, size: int, device: torch.device) -> Iterator[Batch]:
        """Yield batches of `size` latents, each latent once, in stored order."""
        for start in range(0, len(self), size):
            yield self.batch(range(start, min(start + size, len(self))), device)

    def some(self, item: Tensor, device: torch.device) -> Batch:
        """Return items by index (M).

        Latent i has item i and, with guidance, item N + i: the last one has its prompt.
        """
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
    """Return the items (batch) of one iteration: every epoch visits each item once, in a new order.

    The order depends on the arguments alone, so a resumed run draws what an uninterrupted one draws.
    """
    per_epoch = max(1, count // batch)
    epoch, step = divmod(iteration, per_epoch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[step * batch : (step + 1) * batch]
