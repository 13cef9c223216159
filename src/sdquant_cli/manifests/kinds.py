"""The manifest of each artifact kind."""

from typing import Literal

from ..types import Kind
from .base import Manifest
from .facts import (
    DriftFacts,
    FeaturesFacts,
    ImagesFacts,
    LatentsFacts,
    LeaderboardFacts,
    MetricsFacts,
    PromptsFacts,
    QuantStateFacts,
    SensitivityFacts,
    TextEmbedsFacts,
    TimeTableFacts,
)
from .specs import (
    DriftSpec,
    FeaturesSpec,
    ImagesSpec,
    LatentsSpec,
    LeaderboardSpec,
    MetricsSpec,
    PromptsSpec,
    QuantStateSpec,
    SensitivitySpec,
    TextEmbedsSpec,
    TimeTableSpec,
)


class PromptsManifest(Manifest):
    """Manifest of a prompts artifact."""

    kind: Literal[Kind.PROMPTS]
    spec: PromptsSpec
    facts: PromptsFacts


class TextEmbedsManifest(Manifest):
    """Manifest of a text-embeds artifact."""

    kind: Literal[Kind.TEXT_EMBEDS]
    spec: TextEmbedsSpec
    facts: TextEmbedsFacts


class LatentsManifest(Manifest):
    """Manifest of a latents artifact."""

    kind: Literal[Kind.LATENTS]
    spec: LatentsSpec
    facts: LatentsFacts


class TimeTableManifest(Manifest):
    """Manifest of a time-table artifact."""

    kind: Literal[Kind.TIME_TABLE]
    spec: TimeTableSpec
    facts: TimeTableFacts


class SensitivityManifest(Manifest):
    """Manifest of a sensitivity artifact."""

    kind: Literal[Kind.SENSITIVITY]
    spec: SensitivitySpec
    facts: SensitivityFacts


class QuantStateManifest(Manifest):
    """Manifest of a quant-state artifact."""

    kind: Literal[Kind.QUANT_STATE]
    spec: QuantStateSpec
    facts: QuantStateFacts


class ImagesManifest(Manifest):
    """Manifest of an images artifact."""

    kind: Literal[Kind.IMAGES]
    spec: ImagesSpec
    facts: ImagesFacts


class FeaturesManifest(Manifest):
    """Manifest of a features artifact."""

    kind: Literal[Kind.FEATURES]
    spec: FeaturesSpec
    facts: FeaturesFacts


class DriftManifest(Manifest):
    """Manifest of a drift artifact."""

    kind: Literal[Kind.DRIFT]
    spec: DriftSpec
    facts: DriftFacts


class MetricsManifest(Manifest):
    """Manifest of a metrics artifact."""

    kind: Literal[Kind.METRICS]
    spec: MetricsSpec
    facts: MetricsFacts


class LeaderboardManifest(Manifest):
    """Manifest of a leaderboard artifact."""

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
