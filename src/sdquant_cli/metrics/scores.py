"""Scores of features (N,D), one per picture; and from scores to what is reported."""

from collections.abc import Callable

import numpy as np

from ..manifests import MetricSummary
from .ratios import feature_cosine

RESAMPLES = 1000
WORST = 10


def feature_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine distance 1 - cos (N) between the features of picture pairs; rounding never takes it below 0."""
    return np.clip(1 - feature_cosine(first, second), 0, None)


def clip_score(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """CLIP score (N): 100 max(cos, 0) (Hessel et al. 2021, eq. 1, w = 1)."""
    return 100 * np.clip(feature_cosine(images, texts), 0, None)


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% percentile-bootstrap interval of the mean of values (N)."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def summarise(values: np.ndarray, distance: Callable[[float], float]) -> MetricSummary:
    """Mean, median, deviation, interval and the worst of values (N); infinite ones are identical pictures.

    Those are counted and left out of the statistics: a mean with them would be infinite.
    """
    finite = values[np.isfinite(values)]
    order = np.argsort([-distance(value) for value in values.tolist()], kind="stable")
    return MetricSummary(
        mean=float(finite.mean()) if len(finite) else None,
        median=float(np.median(finite)) if len(finite) else None,
        std=float(finite.std(ddof=1)) if len(finite) > 1 else None,
        ci95=bootstrap_interval(finite) if len(finite) else None,
        n=len(values),
        identical=len(values) - len(finite),
        worst=tuple(order[:WORST].tolist()),
    )


def paired_difference(own: np.ndarray, other: np.ndarray) -> MetricSummary | None:
    """Of own less other values (N), picture by picture; None where no picture has two finite ones."""
    finite = np.isfinite(own) & np.isfinite(other)
    if not finite.any():
        return None
    less = own[finite] - other[finite]
    return MetricSummary(
        mean=float(less.mean()), median=float(np.median(less)), ci95=bootstrap_interval(less), n=len(less)
    )
