"""Number formats of pages, Markdown and the terminal."""

import math
from collections.abc import Iterable

from ..manifests import MetricSummary
from ..metrics.catalog import CATALOG

BETTER = {"zero": "near 0", "high": "higher", "low": "lower"}
UNITS = {"psnr": "dB"}
MINUS = "\u2212"
DASH = "\u2013"
DUST = 1e-12  # what rounding in fp64 leaves of zero


def better(metric: str) -> str:
    """Return which values of a metric are good: "higher", "lower" or "near 0"."""
    return BETTER[CATALOG[metric].best]


def unit(metric: str) -> str:
    """Return a metric's unit, "" if it has none."""
    return UNITS.get(CATALOG[metric].formula, "")


def distance(metric: str, value: float) -> float | None:
    """Return how far an image is from its reference: larger is worse; None for an identical image."""
    return CATALOG[metric].distance(value) if math.isfinite(value) else None


def position(value: float | None, near: float | None, far: float | None) -> float | None:
    """Return where a value lies between two ends, 0..1; None if one is missing or they are equal."""
    if value is None or near is None or far is None or near == far:
        return None
    return min(max((value - near) / (far - near), 0.0), 1.0)


# --------------------------------------------------------------------------- rows that align


def decimals(values: Iterable[float | None]) -> int:
    """Return the decimals that show four digits of the largest value, so that a row of numbers aligns."""
    largest = 0.0
    for value in values:
        if value is not None and math.isfinite(value):
            largest = max(largest, abs(value))
    return 3 if largest == 0 else min(max(3 - math.floor(math.log10(largest)), 0), 5)


def fixed(value: float | None, places: int) -> str:
    """Return a number of `places` decimals with a true minus sign; a dash for none, a word for infinity."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "identical"
    text = f"{value:.{places}f}"
    return f"{MINUS}{text[1:]}" if text.startswith("-") and float(text) != 0 else text.lstrip("-")


# --------------------------------------------------------------------------- metric summaries


def significant(value: float) -> str:
    """Return a number with four significant digits."""
    return f"{value:.4g}" if abs(value) > DUST else "0"


def mean(summary: MetricSummary | None) -> str:
    """Return a metric's mean, or in a word why it has none."""
    if summary is None:
        return ""
    if summary.skipped:
        return f"skipped ({summary.skipped})"
    if summary.mean is None:
        return f"identical ({summary.identical})" if summary.identical else "not available"
    text = significant(summary.mean)
    return f"{text} ({summary.identical} identical)" if summary.identical else text


def median(summary: MetricSummary) -> str:
    """Return a metric's median, "" if it has none."""
    return "" if summary.median is None else significant(summary.median)


def interval(summary: MetricSummary) -> str:
    """Return a metric's 95% interval, "" if it has none."""
    if summary.ci95 is None:
        return ""
    low, high = summary.ci95
    return f"[{significant(low)}, {significant(high)}]"
