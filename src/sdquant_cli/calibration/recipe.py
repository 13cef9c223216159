"""A method as a choice of parts: what it trains on, from which tables, towards which loss."""

from collections.abc import Callable
from dataclasses import dataclass

from ..manifests import ReconstructSpec
from ..types import Activations, Bits, Ranges, Relax, Select, Tables, Train
from .sources import BatchContext, Source


@dataclass(frozen=True)
class Data:
    """The calibration latents that a method asks for: flags of `sample`."""

    select: Select = Select.RANDOM
    prompts: int = 250
    per_prompt: int = 8


@dataclass(frozen=True)
class Recipe:
    """A published method: its parts, and where they are described."""

    name: str
    cites: str
    source: Callable[[BatchContext], Source] | None = None  # batches that train the network as a whole
    reconstruct: ReconstructSpec | None = None  # how its blocks are trained, one after the other
    rate_at_8_bits: float | None = None  # of its rounding, where weights have 8 bits; None: the same
    data: Data = Data()
    activations: Activations = Activations.PER_STEP
    smoothing: bool = False  # of inputs whose scales are found at run time
    tables: Tables = Tables.PER_STEP
    ranges: Ranges = Ranges.MSE
    split_shortcuts: bool = False
    relax: Relax = Relax.NONE
    mixed: bool = False  # whether the publication has mixed precision; --mixed asks for it
    edges: Bits | None = None  # least bits of the first and the last layer, unless a ranking decides
    batch_size: int = 12  # latents of an update
    needs_pictures: bool = False
    stored_items: bool = False  # whether all its batches consist of the stored latents
    output_weight: float = 1.0  # of L_out
    sensitive_weight: float = 1.0  # of L_sen
    block_weight: float = 0.0  # of inter-layer distillation
    guided_weight: float = 0.0  # of the loss on the guided prediction
    train: Train = Train.WEIGHTS_AND_STEPS
    zero_points: bool = False  # whether those of tables are trained
    weight_rate: float = 2e-4  # of a network trained as a whole, for 4-bit weights
    low_rank_rate: float | None = None  # of low-rank updates instead; None: the same
    step_rate: float = 1e-3  # relative: of the logarithm of scales
    iterations: int = 400

    @property
    def trains(self) -> bool:
        """Whether the method trains the network as a whole or block by block."""
        return self.source is not None or self.reconstruct is not None
