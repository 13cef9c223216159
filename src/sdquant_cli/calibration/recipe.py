"""A method as a choice of blocks: what it trains on, from which tables, towards which loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..manifests import ReconstructSpec
from ..models.conditioning import Conditioning
from ..types import Bits, Ranges, Relax, Select, Tables
from .items import Batch, Items


class Source(Protocol):
    """Where batches come from: each follows from the iteration alone, so that runs resume exactly."""

    def batch(self, iteration: int) -> Batch:
        """The inputs of one update."""

    def learn(self, prediction: Tensor) -> None:
        """The floating-point network's prediction on the batch just given."""


@dataclass(frozen=True)
class Pictures:
    """Clean latents with the text of each."""

    x: Tensor  # (N,C,h,w), scaled as the UNet expects
    text: Tensor  # (N) index into the texts
    texts: Conditioning  # of P prompts, the unconditional one at 0


@dataclass(frozen=True)
class BatchContext:
    """What a source may draw on."""

    items: Items
    batch_size: int
    seed: int
    device: torch.device
    teacher: Any
    sampler: Callable[[], Any]  # a fresh one, its timesteps set
    guidance_scale: float
    pictures: Pictures | None = None


@dataclass(frozen=True)
class Data:
    """Which calibration latents a method asks for: flags of `sample`."""

    select: Select = Select.RANDOM
    prompts: int = 250
    per_prompt: int = 8


@dataclass(frozen=True)
class Recipe:
    """A published method: its blocks, and where they are described."""

    name: str
    cites: str
    source: Callable[[BatchContext], Source] | None = None  # of batches that train the network as a whole
    reconstruct: ReconstructSpec | None = None  # how its units are, one after the other
    data: Data = Data()
    tables: Tables = Tables.PER_STEP
    ranges: Ranges = Ranges.MSE
    split_shortcuts: bool = False
    relax: Relax = Relax.NONE
    mixed: bool = False  # whether what was published of it has mixed precision; asked for by --mixed
    edges: Bits | None = None  # least bits of the first and the last layer, unless a ranking decides
    batch_size: int = 12  # latents of an update
    needs_pictures: bool = False
    stored_items: bool = False  # whether all its batches are of the stored latents
    sensitive_weight: float = 1.0  # of L_sen
    block_weight: float = 0.0  # of inter-layer distillation
    weight_rate: float = 2e-4  # of a network trained as a whole, for 4-bit weights
    step_rate: float = 1e-3  # relative: of the logarithm of step sizes
    iterations: int = 400

    @property
    def trains(self) -> bool:
        """Whether anything is, as a whole or unit by unit."""
        return self.source is not None or self.reconstruct is not None
