"""The spec of each artifact kind: everything that decides its content besides its inputs."""

from typing import ClassVar, Literal

from ..types import (
    Activations,
    Dtype,
    Execution,
    Kind,
    Measure,
    Ranges,
    Relax,
    Select,
    StepMatch,
    Tables,
    Train,
)
from .base import Frozen, ModelRef, Setting, Spec


class PromptsSpec(Spec):
    """A list of prompts."""

    kind: ClassVar[Kind] = Kind.PROMPTS
    count: int
    sha256: str  # of the prompts, each followed by a zero byte


class TextEmbedsSpec(Spec):
    """Text embeddings of the input prompts."""

    kind: ClassVar[Kind] = Kind.TEXT_EMBEDS
    model: ModelRef


class SelectSpec(Frozen):
    """The rule that chooses the timesteps of calibration latents, where it is not random."""

    rule: Select
    mean: float | None = None  # of times, 0 for the clean image and 1 for noise
    deviation: float | None = None
    variety: float | None = None  # weight of variety against density
    radius: float | None = None  # of density: a quantile of the distances between steps


class LatentsSpec(Spec):
    """Calibration latents of the input prompts."""

    kind: ClassVar[Kind] = Kind.LATENTS
    stage_version: ClassVar[int] = 2
    setting: Setting
    per_prompt: int
    seed: int
    micro_batch: int  # prompts per UNet call; with guidance each is two items
    select: SelectSpec | None = None  # None: random timesteps


class TimeTableSpec(Spec):
    """Precomputed outputs of the time path for each timestep."""

    kind: ClassVar[Kind] = Kind.TIME_TABLE
    stage_version: ClassVar[int] = 2
    model: ModelRef
    scheduler: str
    steps: int
    shift_of: tuple[int, int] | None = None  # height and width, where they decide the timesteps
    bits: str | None = None  # of the time path's layers; None: floating point
    embedded_guidance: float | None = None  # scale that the time path embeds


class SensitivitySpec(Spec):
    """A ranking of layers by their sensitivity to quantization."""

    kind: ClassVar[Kind] = Kind.SENSITIVITY
    stage_version: ClassVar[int] = 2
    measure: Measure
    bits: str
    latents: int  # number used, from the first on; 0 where a file lists the layers
    micro_batch: int  # latents per pass; with guidance each is two items
    loss: Literal["mse to fp, at rounded weights"] | None  # whose gradient is taken; None: of none
    activations: Activations | None = None  # of sqnr, as `calibrate` has them; None: per step
    ranges: Ranges | None = None  # how sqnr chooses activation grids
    relax: Relax | None = None
    full_range: bool | None = None  # whether sqnr's weights have all codes; None: not the lowest
    ranking: str | None = None  # sha256 of the layers that a file lists; None: they are measured


class LossSpec(Frozen):
    """Weights of the losses; one of weight 0 is not computed."""

    output: float | None = None  # L_out; None: 1
    sensitive: float  # L_sen
    blocks: float  # inter-layer distillation on the outputs of down, mid and up blocks
    guided: float  # on the guided combination


class TrainSpec(Frozen):
    """Parameters and settings of distillation."""

    what: Train
    rank: int | None  # of a low-rank update; None: the weights themselves, if they are trained
    weight_rate: float
    rate_by_layer: bool | None = None  # whether layers of more than 4 bits move by as much less
    step_rate: float  # relative: the learning rate of the logarithm of scales
    accumulate: int  # parts that a batch is split into for gradient accumulation
    averaging: float  # decay of the mean over iterations; 0: the last values are kept
    freezing: float  # oscillation frequency from which a weight is frozen; 0: never
    teacher: Dtype
    amp: bool | None = None  # whether the student's matrix products are in bf16
    tf32: bool | None = None  # whether a GPU's products in fp32 are of 10 bits of mantissa
    zero_points: bool | None = None  # whether those of activation tables are trained too


class ReconstructSpec(Frozen):
    """Settings of block reconstruction, one block after another."""

    layer_weight: float  # gamma: weight of the errors of a block's layers, added to the block's own
    drop: float  # share of layer inputs left unrounded while rounding is learned; 1: all of them are
    mixed_inputs: float  # share of block inputs taken from the floating-point network
    regulariser: float  # of AdaRound; 0: none
    joint: bool  # whether rounding and activation scales are learned together
    second: float  # iterations of a second phase that learns scales only, as a share of the first's; 0: none
    weight_rate: float  # of AdaRound's alpha
    step_rate: float | None  # absolute; None: scales are not learned


class QuantStateSpec(Spec):
    """The quantizers and quantized weights of a network."""

    kind: ClassVar[Kind] = Kind.QUANT_STATE
    stage_version: ClassVar[int] = 2
    method: str
    bits: str
    mixed: bool
    budget: str | None = None  # of weight bits, such as 4.25 or 3MB; replaces the weights' part of `bits`
    activations: Activations | None = None  # None: per step
    tables: Tables | None = None  # None: scales are found at run time
    ranges: Ranges | None = None
    full_range: bool | None = None  # whether weights have all codes; None: not the lowest
    group_size: int | None = None  # input channels of a weight that share a scale; None: all
    branch_rank: int | None = None  # of the 16-bit branch beside each weight; None: there is none
    smoothing: bool | None = None  # whether inputs are multiplied by a number for each channel
    attention_bits: int | None = None  # of q, k and v of every attention; None: not rounded
    softmax_bits: int | None = None  # of attention probabilities
    iterations: int
    batch_size: int  # latents per update; with guidance each is two items
    seed: int
    loss: LossSpec | None  # None: nothing is trained
    train: TrainSpec | None
    pictures: str | None = None  # sha256 of a folder of images; None: generated ones, or none are needed
    reconstruct: ReconstructSpec | None = None  # None: the network is trained as a whole, or not at all
    split_shortcuts: bool | None = None  # whether a block's input and its skip connection have separate grids
    relax: Relax | None = None  # timesteps with wider activation grids
    edges: str | None = None  # least bits of the first and the last layer
    correction: bool | None = None  # of the output at each timestep; None: not computed


class ImagesSpec(Spec):
    """Images generated from the input prompts."""

    kind: ClassVar[Kind] = Kind.IMAGES
    stage_version: ClassVar[int] = 2
    setting: Setting
    engine: Execution
    seed: int
    micro_batch: int
    step_match: StepMatch | None = None  # None: every timestep was calibrated


class FeaturesSpec(Spec):
    """Features of the input images in a metric network."""

    kind: ClassVar[Kind] = Kind.FEATURES
    network: str  # as in the brackets of a metric's name
    weights: dict[str, str]  # sha256 of each weight file


class DriftSpec(Spec):
    """Divergence of the quantized trajectory from the floating-point one."""

    kind: ClassVar[Kind] = Kind.DRIFT
    stage_version: ClassVar[int] = 2
    setting: Setting
    prompts: int  # number used, from the first on
    seed: int
    micro_batch: int
    step_match: StepMatch | None = None  # where tables are interpolated


class MetricsSpec(Spec):
    """Metrics of the input images against their references."""

    kind: ClassVar[Kind] = Kind.METRICS
    stage_version: ClassVar[int] = 3
    metrics: tuple[str, ...]  # those computed
    weights: dict[str, str]  # sha256 of each weight file that they need


class LeaderboardSpec(Spec):
    """A comparison of methods at equal bits."""

    kind: ClassVar[Kind] = Kind.LEADERBOARD
    rows: tuple[str, ...]  # method and bits, such as "rtn w4a8", in the order asked for
    failed: dict[str, str]  # why a row has no metrics, by row
    refused: dict[str, str] = {}  # why a row was not run, by row
    calibrations: int | None = None  # of each row; None: one
