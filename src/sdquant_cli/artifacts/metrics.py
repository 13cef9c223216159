"""Metrics: images measured against a reference, each and in summary."""

from collections.abc import Iterable

from ..manifests import MetricsFacts, MetricsSpec
from ..store import ArraySpec, Artifact
from ..types import Kind


class Metrics(Artifact[MetricsSpec, MetricsFacts]):
    """Stored metrics."""

    KIND = Kind.METRICS


def layout(names: Iterable[str], pictures: int) -> dict[str, ArraySpec]:
    """Return a column for each metric of single pictures; some have no number, or infinity."""
    return {name: ArraySpec((pictures,), "float64", ("sample",), finite=False) for name in names}
