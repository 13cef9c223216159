"""Scores of features (N,D), one per picture, and their summaries."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from ..manifests import MetricSummary
from .ratios import feature_cosine

RESAMPLES = 1000
DRAWN_AT_ONCE = 2**14  # values, by a bootstrap
WORST = 10


def feature_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine distance 1 - cos (N), at least 0, between the features of picture pairs."""
    return np.clip(1 - feature_cosine(first, second), 0, None)


def clip_score(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the CLIP score (N), 100 max(cos, 0) (Hessel et al. 2021, eq. 1, w = 1)."""
    return 100 * np.clip(feature_cosine(images, texts), 0, None)


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95% percentile-bootstrap interval of the mean of values (N)."""
    generator, n = np.random.default_rng(seed), len(values)
    at_once = max(1, DRAWN_AT_ONCE // n)
    means = []
    for start in range(0, RESAMPLES, at_once):
        picks = generator.integers(0, n, (min(at_once, RESAMPLES - start), n))
        means.append(values[picks].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def summarise(values: np.ndarray, distance: Callable[[float], float]) -> MetricSummary:
    """Return mean, median, standard deviation, interval and the indices of the worst of values (N).

    Infinite values are identical pictures: they are counted, and left out of the statistics.
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


def over_calibrations(each: Sequence[MetricSummary]) -> MetricSummary:
    """Return the mean of several calibrations' means with Student's 95% interval, and that of their medians.

    `each` summarises the images of one calibration after the other. One without a mean counts only as
    identical; of a single mean there is no interval.
    """
    means = np.array([summary.mean for summary in each if summary.mean is not None])
    medians = np.array([summary.median for summary in each if summary.median is not None])
    identical = sum(summary.identical for summary in each)
    if not len(means):
        skipped = next((summary.skipped for summary in each if summary.skipped), None)
        return MetricSummary(mean=None, n=len(each), identical=identical, skipped=skipped)
    mean, interval = means.mean(), None
    if len(means) > 1:
        half = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means))
        interval = (mean - half, mean + half)
    return MetricSummary(
        mean=mean,
        median=medians.mean() if len(medians) == len(means) else None,
        ci95=interval,
        n=len(means),
        identical=identical,
    )


def paired_difference(values: np.ndarray, baseline: np.ndarray) -> MetricSummary | None:
    """Return a summary of values minus baseline (N), picture by picture; None if no pair is finite."""
    finite = np.isfinite(values) & np.isfinite(baseline)
    if not finite.any():
        return None
    differences = values[finite] - baseline[finite]
    return MetricSummary(
        mean=float(differences.mean()),
        median=float(np.median(differences)),
        ci95=bootstrap_interval(differences),
        n=len(differences),
    )
