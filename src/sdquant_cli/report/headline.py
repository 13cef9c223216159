"""The table of all metrics: one row per metric, one column per model, and the two baselines."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..manifests import MetricsFacts, MetricSummary
from ..metrics.catalog import CATALOG, Form
from . import numbers, page


@dataclass(frozen=True)
class Scale:
    """A metric's number format, and the two ends that its values lie between."""

    places: int  # decimals
    near: float | None = None  # the reference compared with itself
    far: float | None = None  # floating-point images of another seed


def headline(facts: Sequence[MetricsFacts]) -> tuple[page.MetricRow, ...]:
    """Return one row per metric that at least one model has a number for; `facts` are one per model."""
    rows = []
    for name in _metric_names(facts):
        if not _skip_reason(name, facts):
            rows.append(_metric_row(name, facts))
    return tuple(rows)


def skipped(facts: Sequence[MetricsFacts]) -> dict[str, list[str]]:
    """Return why metrics were skipped for all models, with the names of these metrics."""
    reasons: dict[str, list[str]] = {}
    for name in _metric_names(facts):
        if reason := _skip_reason(name, facts):
            reasons.setdefault(reason, []).append(name)
    return reasons


def _metric_names(facts: Sequence[MetricsFacts]) -> list[str]:
    names: dict[str, None] = {}
    for one in facts:
        names |= dict.fromkeys(one.metrics)
    return list(names)


def _skip_reason(name: str, facts: Sequence[MetricsFacts]) -> str:
    """Return why a metric was skipped, "" if some model has a number for it."""
    reason = ""
    for one in facts:
        summary = one.metrics.get(name)
        if summary and not summary.skipped:
            return ""
        if summary and summary.skipped and not reason:
            reason = summary.skipped
    return reason


def _metric_row(name: str, facts: Sequence[MetricsFacts]) -> page.MetricRow:
    """Return each model's number, then those of the other seed and of the reference itself."""
    floor = itself = None
    for one in facts:
        floor = floor or one.floor.get(name)
        itself = itself or one.itself.get(name)
    summaries = [one.metrics.get(name) for one in facts]
    places = numbers.decimals(_means([*summaries, floor, itself]))
    scale = Scale(places)
    if CATALOG[name].form not in (Form.TEXT, Form.TEXT_DIFFERENCE):  # another seed scores as well there
        near, far = _means([itself, floor])
        scale = Scale(places, near, far)
    cells = [_cell(summary, scale) for summary in summaries]
    cells += [_cell(floor, Scale(places)), _cell(itself, Scale(places))]
    return page.MetricRow(
        name=name,
        better=numbers.better(name),
        unit=numbers.unit(name),
        n=_images(summaries),
        cells=tuple(cells),
    )


def _means(summaries: Sequence[MetricSummary | None]) -> list[float | None]:
    return [summary.mean if summary else None for summary in summaries]


def _images(summaries: Sequence[MetricSummary | None]) -> int | None:
    """Return how many images a metric was computed on."""
    for summary in summaries:
        if summary and not summary.skipped:
            return summary.n
    return None


def _cell(summary: MetricSummary | None, scale: Scale) -> page.Cell:
    if summary is None:
        return page.Cell(numbers.DASH)
    if summary.skipped:
        return page.Cell(numbers.DASH, note=f"skipped: {summary.skipped}")
    if summary.mean is None:
        return page.Cell("identical" if summary.identical == summary.n else "no value")
    return page.Cell(
        text=numbers.fixed(summary.mean, scale.places),
        interval=_interval(summary, scale.places),
        note=f"{summary.identical} identical" if summary.identical else "",
        position=numbers.position(summary.mean, scale.near, scale.far),
    )


def _interval(summary: MetricSummary, places: int) -> str:
    """Return a 95% interval, "" if there is none or it has no width."""
    if summary.ci95 is None or summary.ci95[0] == summary.ci95[1]:
        return ""
    low, high = summary.ci95
    return f"{numbers.fixed(low, places)} \u2026 {numbers.fixed(high, places)}"
