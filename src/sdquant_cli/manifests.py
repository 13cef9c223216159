"""The shape of what the store holds: one Spec and one Manifest per artifact kind. Pydantic only.

A Spec is everything that decides an artifact's content besides its inputs; its hash, with the
inputs' digests, is the artifact's key. A Manifest describes one published artifact and repeats the
numbers people ask for, so that reading it needs neither zarr nor torch.
"""

import hashlib
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from .errors import UsageProblem
from .sealed import canonical, not_finite
from .types import Dtype, Execution, Kind, Measure, Ranges, Relax, Select, StepMatch, Tables, Train

FORMAT = 2  # of new manifests; 1 had no checksum


class Frozen(BaseModel):
    """A value: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ref(Frozen):
    """A pointer to a published artifact."""

    kind: Kind
    key: str
    digest: str  # of the artifact's content

    @property
    def name(self) -> str:
        """The artifact's name in commands and messages, `kind/key`."""
        return f"{self.kind}/{self.key}"


class ModelRef(Frozen):
    """Which model: where it was found and the digest of its files, an adapter's included."""

    source: str
    digest: str
    revision: str | None = None  # of a Hub id
    variant: str | None = None  # of the weight files, as in fp16
    base: str | None = None  # the pipeline that a single file is a fine-tune of
    lora: str | None = None  # file of the adapter fused into it
    lora_scale: float | None = None


class Setting(Frozen):
    """How the model draws: everything two pictures must share to be comparable."""

    model: ModelRef
    scheduler: str  # a short name, or a class of diffusers that has none
    steps: int
    guidance_scale: float  # at or below 1 there is no guidance: each latent is one item, with its prompt
    height: int  # pixels
    width: int
    dtype: str  # of the denoiser


# -------------------------------------------------------------------------------------- specs


class Spec(Frozen):
    """Base of all specs."""

    kind: ClassVar[Kind]
    stage_version: ClassVar[int] = 1  # raised by hand when the same spec gives other content


class PromptsSpec(Spec):
    kind: ClassVar[Kind] = Kind.PROMPTS
    count: int
    sha256: str  # of the prompts, each followed by a zero byte


class TextEmbedsSpec(Spec):
    kind: ClassVar[Kind] = Kind.TEXT_EMBEDS
    model: ModelRef


class SelectSpec(Frozen):
    """At which steps latents are taken, where not at random ones."""

    rule: Select
    mean: float | None = None  # of times, 0 at the picture and 1 at the noise
    deviation: float | None = None
    variety: float | None = None  # its weight beside density
    radius: float | None = None  # of density: a quantile of the distances between steps


class LatentsSpec(Spec):
    kind: ClassVar[Kind] = Kind.LATENTS
    stage_version: ClassVar[int] = 2
    setting: Setting
    per_prompt: int
    seed: int
    micro_batch: int  # prompts per UNet call; each is two items with guidance, else one
    select: SelectSpec | None = None  # None: at random


class TimeTableSpec(Spec):
    kind: ClassVar[Kind] = Kind.TIME_TABLE
    stage_version: ClassVar[int] = 2
    model: ModelRef
    scheduler: str
    steps: int
    shift_of: tuple[int, int] | None = None  # height and width, where they decide the timesteps
    bits: str | None = None  # of the time path's layers; None: floating point


class SensitivitySpec(Spec):
    kind: ClassVar[Kind] = Kind.SENSITIVITY
    stage_version: ClassVar[int] = 2
    measure: Measure
    bits: str
    latents: int  # the first so many
    micro_batch: int  # latents per pass; each is two items with guidance, else one
    loss: Literal["mse to fp, at rounded weights"] | None  # whose gradient is taken; sqnr takes none
    ranges: Ranges | None = None  # how sqnr finds the grids of a layer's inputs: as `calibrate` does
    relax: Relax | None = None


class LossSpec(Frozen):
    """Weights of the losses beside L_out, which counts 1; 0 leaves one out."""

    sensitive: float  # L_sen
    blocks: float  # inter-layer distillation on the outputs of down, mid and up blocks
    guided: float  # on the guided combination


class TrainSpec(Frozen):
    """What is trained, and how."""

    what: Train
    rank: int | None  # of a low-rank update; None: the weights themselves, if any
    weight_rate: float
    step_rate: float  # relative: of the logarithm of step sizes
    accumulate: int  # parts of a batch, one after the other
    averaging: float  # decay of the mean over iterations; 0: the last values count
    freezing: float  # frequency of oscillation from which a weight is frozen; 0: never
    teacher: Dtype
    amp: bool | None = None  # whether the student's products are in bf16


class ReconstructSpec(Frozen):
    """How units of the network are reconstructed, one after the other."""

    layer_weight: float  # gamma: of the errors of a unit's layers beside its own
    drop: float  # share of layers' input values left unrounded while rounding is learned; 1: activations are
    mixed_inputs: float  # share of a unit's input values taken from the floating-point network
    regulariser: float  # of AdaRound; 0: none
    joint: bool  # whether rounding and activation step sizes are learned at once
    second: float  # iterations of a second sweep, over step sizes alone, as a share of the first's; 0: none
    weight_rate: float  # of AdaRound's alpha
    step_rate: float | None  # absolute; None: step sizes are not learned


class QuantStateSpec(Spec):
    kind: ClassVar[Kind] = Kind.QUANT_STATE
    stage_version: ClassVar[int] = 2
    method: str
    bits: str
    mixed: bool
    budget: str | None = None  # of weight bits, as in 4.25 or 3MB; replaces the weights' part of `bits`
    tables: Tables
    ranges: Ranges
    attention_bits: int | None = None  # of q, k and v of every attention; None: not rounded
    softmax_bits: int | None = None  # of its probabilities
    iterations: int
    batch_size: int  # latents per update; each is two items with guidance, else one
    seed: int
    loss: LossSpec | None  # None: nothing is trained
    train: TrainSpec | None
    pictures: str | None = None  # sha256 of a folder of them; None: the model's own, or the method needs none
    reconstruct: ReconstructSpec | None = None  # None: the network is trained as a whole, or not at all
    split_shortcuts: bool | None = None  # convolutions of a block's input beside what skips to it, in two
    relax: Relax | None = None  # steps of wider activation grids
    edges: str | None = None  # least bits of the first and the last layer
    correction: bool | None = None  # of the output, step by step; None: not made


class ImagesSpec(Spec):
    kind: ClassVar[Kind] = Kind.IMAGES
    stage_version: ClassVar[int] = 2
    setting: Setting
    engine: Execution
    seed: int
    micro_batch: int
    step_match: StepMatch | None = None  # None: every timestep is a calibrated one


class FeaturesSpec(Spec):
    kind: ClassVar[Kind] = Kind.FEATURES
    network: str  # as in the brackets of a metric's name
    weights: dict[str, str]  # sha256 of each weight file


class DriftSpec(Spec):
    kind: ClassVar[Kind] = Kind.DRIFT
    stage_version: ClassVar[int] = 2
    setting: Setting
    prompts: int  # the first so many
    seed: int
    micro_batch: int


class MetricsSpec(Spec):
    kind: ClassVar[Kind] = Kind.METRICS
    stage_version: ClassVar[int] = 3
    metrics: tuple[str, ...]  # those computed
    weights: dict[str, str]  # sha256 of each weight file they need


class LeaderboardSpec(Spec):
    kind: ClassVar[Kind] = Kind.LEADERBOARD
    rows: tuple[str, ...]  # method and bits, as in "rtn w4a8", in the order asked for
    failed: dict[str, str]  # of these rows, why there are no metrics


def artifact_key(spec: Spec, inputs: dict[str, Ref], layout: dict[str, object]) -> str:
    """20 hex digits of sha256 over the canonical JSON of spec, inputs' digests and array layout.

    Fields that are None are left out: a field that a later version adds leaves the keys of what was made
    without it as they are. Raises UsageProblem for a number that is not finite.
    """
    identity = {
        "kind": spec.kind.value,
        "stage_version": spec.stage_version,
        "spec": spec.model_dump(mode="json", exclude_none=True),
        "inputs": {role: ref.digest for role, ref in inputs.items()},
        "layout": layout,
    }
    if bad := not_finite(identity["spec"]):
        raise UsageProblem(f"{spec.kind}: {bad} is not a finite number; leave it out or name another")
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:20]


# ---------------------------------------------------------------------------------- manifests


class StoredObject(Frozen):
    """One file of an artifact."""

    path: str  # relative to the artifact
    size: int  # bytes
    sha256: str


class Receipt(Frozen):
    """Proof that one unit of work is stored."""

    unit: int
    objects: tuple[StoredObject, ...]
    counts: dict[str, int] = {}


class ArrayInfo(Frozen):
    """One stored array; `unit_rows` rows of the first axis belong to each unit of work."""

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    chunk_rows: int
    unit_rows: int
    compressed: bool


class Provenance(Frozen):
    """How an artifact came to be; not part of its key."""

    sdquant: str
    python: str
    packages: dict[str, str]
    threads: int
    created_at: str  # UTC, ISO 8601
    seconds: float = 0.0  # of the run that published it and, where it resumed from a checkpoint, up to that
    peak_memory: int | None = None  # bytes, the largest resident set of the process meanwhile


class Manifest(Frozen):
    """What every published artifact says of itself."""

    format: Literal[1, 2] = 2
    kind: Kind
    key: str
    digest: str  # sha256 over (path, size, sha256) of all objects
    inputs: dict[str, Ref]
    arrays: dict[str, ArrayInfo]
    metadata: tuple[StoredObject, ...]  # the arrays' own descriptions
    units: tuple[Receipt, ...]
    provenance: Provenance
    checksum: str | None = None  # sha256 over the canonical JSON of all the rest; None in format 1

    @property
    def ref(self) -> Ref:
        return Ref(kind=self.kind, key=self.key, digest=self.digest)


class PromptsFacts(Frozen):
    source: str
    prompts: int
    unique: int


class TextEmbedsFacts(Frozen):
    unique: int
    truncated: int  # prompts longer than the tokenizer takes


class LatentsFacts(Frozen):
    latents: int
    unet_calls: int  # items through the UNet, a pilot's too; each is one picture, with or without its prompt
    unet_calls_minimum: int  # had every trajectory stopped at its own last selected call


class TimeTableFacts(Frozen):
    rows: int
    layers: int
    table_bytes: int
    prompt_table_bytes: int | None = None  # of each prompt's own table beside this one, in fp32
    removed_parameters: int


class SensitivityFacts(Frozen):
    """Numbers by layer. What a measure does not have is empty."""

    samples: int  # latents
    ranking: tuple[str, ...]  # most sensitive first
    scores: dict[str, float]  # printed: |x - x^2/2|; fisher: mean d^2; sqnr: noise to signal
    first_order: dict[str, float] = {}  # x = mean d, where d = <dL/dW, W> of an item
    second_order: dict[str, float] = {}  # printed: x^2 / 2; fisher: mean d^2 / 2
    sqnr: dict[str, float | None] = {}  # dB, weights and inputs of the layer quantized; None: no noise
    weight_noise: dict[str, float] = {}  # noise to signal, only its weights rounded
    top: tuple[str, ...]
    bottom: tuple[str, ...]


class FrontierPoint(Frozen):
    """The best that one budget of weight bits buys, by the sum of single layers' noises."""

    average_bits: float  # of a weight, by parameters
    weight_bytes: int  # of all weights' codes
    predicted_sqnr: float | None  # dB, weights rounded by data alone, inputs as they are
    layers_by_width: dict[int, int]


class UnitFacts(Frozen):
    """How far a reconstructed unit's answer was from the floating-point one."""

    name: str
    layers: int
    before: float  # noise to signal, rounded to nearest
    after: float


class QuantStateFacts(Frozen):
    setting: Setting
    layers: int
    bits: dict[str, str]  # only layers that differ from the spec's bits
    average_bits: dict[str, float]
    losses: tuple[float, ...]  # mean over each checkpoint interval
    borrowed_rows: int  # activation table entries without data of their own
    allocation: FrontierPoint | None = None  # what --budget chose
    correction_slope: float | None = None  # mean over rows: the output's error that goes with the output
    frontier: tuple[FrontierPoint, ...] = ()  # smallest budget first; what others would have bought
    units: tuple[UnitFacts, ...] = ()  # of the last sweep, in running order
    forwards: float | None = None  # runs of the whole network by one item; a backward pass counts two


class ImagesFacts(Frozen):
    images: int


class FeaturesFacts(Frozen):
    images: int
    width: int


class DriftFacts(Frozen):
    """Means over prompts, by UNet call."""

    timesteps: tuple[float, ...]
    latent_cosine: tuple[float | None, ...]  # of the two trajectories' latents; None: they are equal
    latent_snr: tuple[float | None, ...]  # dB
    prediction_sqnr: tuple[float | None, ...]  # dB, both networks on the floating-point model's latents


class MetricSummary(Frozen):
    """Over N pictures: mean with a 95% interval, and median; None where there is no number.

    A few pictures that turn out as other ones outweigh the rest in a mean of distances, not in a median.
    """

    mean: float | None
    median: float | None = None
    std: float | None = None
    ci95: tuple[float, float] | None = None
    n: int
    identical: int = 0  # pictures equal to their reference, left out where the metric is infinite for them
    worst: tuple[int, ...] = ()  # the ten pictures furthest from their reference, worst first
    skipped: str | None = None  # why it was not computed


class MetricsFacts(Frozen):
    """The same metrics for three sets of pictures, each against the floating-point reference."""

    metrics: dict[str, MetricSummary]  # of the pictures in question
    floor: dict[str, MetricSummary]  # of floating-point pictures from other noise: the far end
    itself: dict[str, MetricSummary]  # of the reference: the near end


class LeaderboardRow(Frozen):
    """One row of a leaderboard: how close a method comes at these bits, and what its calibration took."""

    method: str
    bits: str
    metrics: dict[str, MetricSummary]
    beside: dict[str, MetricSummary] = {}  # picture by picture, less the closest at these bits; empty: is it
    latents: int  # calibrated on
    iterations: int
    forwards: float | None = None  # through the UNet, a backward pass counted in forward ones
    seconds: float
    peak_memory: int | None = None  # bytes
    average_bits: float  # of a weight, by parameters
    activation_bits: float | None = None  # mean over layers and steps


class LeaderboardFacts(Frozen):
    """Methods on one ground: the same model, prompts, noise and number of pictures."""

    setting: Setting
    images: int
    metrics: tuple[str, ...]  # columns of the array; its rows are the standings
    standings: tuple[LeaderboardRow, ...]
    floor: dict[str, MetricSummary]  # of floating-point pictures from other noise: the far end
    itself: dict[str, MetricSummary]  # of the reference: the near end


class PromptsManifest(Manifest):
    kind: Literal[Kind.PROMPTS]
    spec: PromptsSpec
    facts: PromptsFacts


class TextEmbedsManifest(Manifest):
    kind: Literal[Kind.TEXT_EMBEDS]
    spec: TextEmbedsSpec
    facts: TextEmbedsFacts


class LatentsManifest(Manifest):
    kind: Literal[Kind.LATENTS]
    spec: LatentsSpec
    facts: LatentsFacts


class TimeTableManifest(Manifest):
    kind: Literal[Kind.TIME_TABLE]
    spec: TimeTableSpec
    facts: TimeTableFacts


class SensitivityManifest(Manifest):
    kind: Literal[Kind.SENSITIVITY]
    spec: SensitivitySpec
    facts: SensitivityFacts


class QuantStateManifest(Manifest):
    kind: Literal[Kind.QUANT_STATE]
    spec: QuantStateSpec
    facts: QuantStateFacts


class ImagesManifest(Manifest):
    kind: Literal[Kind.IMAGES]
    spec: ImagesSpec
    facts: ImagesFacts


class FeaturesManifest(Manifest):
    kind: Literal[Kind.FEATURES]
    spec: FeaturesSpec
    facts: FeaturesFacts


class DriftManifest(Manifest):
    kind: Literal[Kind.DRIFT]
    spec: DriftSpec
    facts: DriftFacts


class MetricsManifest(Manifest):
    kind: Literal[Kind.METRICS]
    spec: MetricsSpec
    facts: MetricsFacts


class LeaderboardManifest(Manifest):
    kind: Literal[Kind.LEADERBOARD]
    spec: LeaderboardSpec
    facts: LeaderboardFacts


MANIFESTS: dict[Kind, type[Manifest]] = {
    Kind.PROMPTS: PromptsManifest,
    Kind.TEXT_EMBEDS: TextEmbedsManifest,
    Kind.LATENTS: LatentsManifest,
    Kind.TIME_TABLE: TimeTableManifest,
    Kind.SENSITIVITY: SensitivityManifest,
    Kind.QUANT_STATE: QuantStateManifest,
    Kind.IMAGES: ImagesManifest,
    Kind.FEATURES: FeaturesManifest,
    Kind.DRIFT: DriftManifest,
    Kind.METRICS: MetricsManifest,
    Kind.LEADERBOARD: LeaderboardManifest,
}
