"""The facts of each artifact kind: numbers that people ask for, without reading its arrays."""

from .base import Frozen, Setting


class PromptsFacts(Frozen):
    """Source and number of prompts."""

    source: str
    prompts: int
    unique: int


class TextEmbedsFacts(Frozen):
    """Counts of encoded prompts."""

    unique: int
    truncated: int  # prompts longer than the tokenizer's limit


class LatentsFacts(Frozen):
    """Counts of latents and of the UNet calls that computed them."""

    latents: int
    unet_calls: int  # items through the UNet, a pilot's included; each is one image, with or without prompt
    unet_calls_minimum: int  # if every trajectory had stopped at its own last selected call


class TimeTableFacts(Frozen):
    """Size of a time table, and of the parameters that it replaces."""

    rows: int
    layers: int
    table_bytes: int
    prompt_table_bytes: int | None = None  # in fp32, of the table that each prompt has besides this one
    removed_parameters: int


class SensitivityFacts(Frozen):
    """Numbers by layer; those that a measure does not compute are empty."""

    samples: int  # latents
    ranking: tuple[str, ...]  # most sensitive first
    scores: dict[str, float]  # printed: |x - x^2/2|; fisher: mean d^2; sqnr: noise to signal
    first_order: dict[str, float] = {}  # x = mean d, where d = <dL/dW, W> of an item
    second_order: dict[str, float] = {}  # printed: x^2 / 2; fisher: mean d^2 / 2
    sqnr: dict[str, float | None] = {}  # dB, weights and inputs of the layer quantized; None: no noise
    weight_noise: dict[str, float] = {}  # noise to signal, only the layer's weights rounded
    top: tuple[str, ...]
    bottom: tuple[str, ...]


class FrontierPoint(Frozen):
    """The best allocation for one budget of weight bits, by the sum of single layers' noise."""

    average_bits: float  # of a weight, by parameters
    weight_bytes: int  # of all weights' codes
    predicted_sqnr: float | None  # dB, weights rounded to nearest, inputs not quantized
    layers_by_width: dict[int, int]


class UnitFacts(Frozen):
    """The error of a reconstructed block against the floating-point network."""

    name: str
    layers: int
    before: float  # noise to signal, weights rounded to nearest
    after: float


class QuantStateFacts(Frozen):
    """Results and cost of a calibration."""

    setting: Setting
    layers: int
    bits: dict[str, str]  # only layers that differ from the spec's bits
    average_bits: dict[str, float]
    losses: tuple[float, ...]  # mean over each checkpoint interval
    borrowed_rows: int  # activation table entries computed from other timesteps' data
    allocation: FrontierPoint | None = None  # what --budget chose
    correction_slope: float | None = None  # mean over rows: slope of the output's error on the output
    frontier: tuple[FrontierPoint, ...] = ()  # allocations of other budgets, smallest first
    units: tuple[UnitFacts, ...] = ()  # of the last reconstruction phase, in the order they run
    forwards: float | None = None  # passes of one item through the network; a backward pass counts two


class ImagesFacts(Frozen):
    """Number of images."""

    images: int


class FeaturesFacts(Frozen):
    """Shape of the features."""

    images: int
    width: int


class DriftFacts(Frozen):
    """Means over prompts, by UNet call."""

    timesteps: tuple[float, ...]
    latent_cosine: tuple[float | None, ...]  # of the two trajectories' latents; None: they are equal
    latent_snr: tuple[float | None, ...]  # dB
    prediction_sqnr: tuple[float | None, ...]  # dB, both networks on the floating-point model's latents


class MetricSummary(Frozen):
    """Statistics over N images: mean with a 95% interval, and median; None where there is no number.

    A few divergent images outweigh the rest in a mean of distances, not in a median.
    """

    mean: float | None
    median: float | None = None
    std: float | None = None
    ci95: tuple[float, float] | None = None
    n: int
    identical: int = 0  # images equal to their reference, left out where the metric is infinite for them
    worst: tuple[int, ...] = ()  # the ten images furthest from their reference, worst first
    skipped: str | None = None  # why it was not computed


class MetricsFacts(Frozen):
    """The same metrics for three sets of images, each against the floating-point reference."""

    metrics: dict[str, MetricSummary]  # of the evaluated images
    floor: dict[str, MetricSummary]  # of floating-point images from another seed: the far end
    itself: dict[str, MetricSummary]  # of the reference: the near end


class LeaderboardRow(Frozen):
    """Metrics of a method at one bit width, and the cost of a calibration.

    Of several calibrations metrics are means, with intervals over calibrations; so are paired differences.
    """

    method: str
    bits: str
    metrics: dict[str, MetricSummary]
    beside: dict[str, MetricSummary] = {}  # paired difference to the closest method; empty for that method
    latents: int  # used by calibration
    iterations: int
    forwards: float | None = None  # through the UNet; a backward pass counts as two
    seconds: float
    peak_memory: int | None = None  # bytes
    average_bits: float  # of a weight, by parameters
    activation_bits: float | None = None  # mean over layers and timesteps
    choices: tuple[str, ...] = ()  # that decide its numbers and training, in words
    means: dict[str, tuple[float | None, ...]] | None = None  # of each metric by calibration; None: of one


class LeaderboardFacts(Frozen):
    """Methods compared on the same model, prompts, noise and number of images."""

    setting: Setting
    images: int  # of one calibration
    metrics: tuple[str, ...]  # columns of the array; its rows are the standings
    standings: tuple[LeaderboardRow, ...]
    floor: dict[str, MetricSummary]  # of floating-point images from another seed: the far end
    itself: dict[str, MetricSummary]  # of the reference: the near end
