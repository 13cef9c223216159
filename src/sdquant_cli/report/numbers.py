"""Numbers as a reader wants them, in rows that align."""

import math
from collections.abc import Iterable

from ..metrics.catalog import CATALOG

UNITS = {"psnr": "dB"}
MINUS = "\u2212"


def base(metric: str) -> str:
    """`fid` of `fid[shapes-clip]`."""
    return metric.partition("[")[0]


def better(metric: str) -> str:
    """Which end of a metric is good."""
    return {"zero": "near 0", "high": "higher", "low": "lower"}[CATALOG[metric].best]


def unit(metric: str) -> str:
    return UNITS.get(base(metric), "")


def distance(metric: str, value: float) -> float | None:
    """How far a picture is from its reference: larger is worse; None for an infinite score (identical)."""
    return CATALOG[metric].distance(value) if math.isfinite(value) else None


def decimals(values: Iterable[float | None]) -> int:
    """Decimals that show four digits of the largest value, so that a row of numbers aligns."""
    largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    return 3 if largest == 0 else min(max(3 - math.floor(math.log10(largest)), 0), 5)


def fixed(value: float | None, places: int) -> str:
    """A number with a true minus sign; a dash for none, the sign of infinity for identical pictures."""
    if value is None or math.isnan(value):
        return "\u2013"
    if math.isinf(value):
        return "identical"
    text = f"{value:.{places}f}"
    return f"{MINUS}{text[1:]}" if text.startswith("-") and float(text) != 0 else text.lstrip("-")


def place(value: float | None, near: float | None, far: float | None) -> float | None:
    """Where a value lies between its two ends, 0..1; None where that has no meaning."""
    if value is None or near is None or far is None or near == far:
        return None
    return min(max((value - near) / (far - near), 0.0), 1.0)
