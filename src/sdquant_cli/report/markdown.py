"""Metrics as Markdown, for the summary page of a CI job."""

from collections.abc import Mapping

from ..manifests import MetricsFacts, MetricSummary

DUST = 1e-12  # what rounding in fp64 leaves of zero


def metrics_summary(facts: MetricsFacts, artifact: str, verdicts: Mapping[str, bool]) -> str:
    """A table of all metrics, and a line for each gate."""
    rows = [
        f"| {name} | {number(summary)} | {interval(summary)} | {median(summary)} "
        f"| {number(facts.floor.get(name))} | {number(facts.itself.get(name))} | {summary.n or ''} |"
        for name, summary in facts.metrics.items()
    ]
    gates = [f"- `{text}` {'met' if met else '**not met**'}" for text, met in verdicts.items()]
    head = [
        "| metric | mean | 95% interval | median | other noise | reference itself | N |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(
        [f"### Closeness to the floating-point model ({artifact})", "", *head, *rows, "", *gates, ""]
    )


def number(summary: MetricSummary | None) -> str:
    """A mean, or in a word why there is none."""
    if summary is None:
        return ""
    if summary.skipped:
        return f"skipped ({summary.skipped})"
    if summary.mean is None:
        return f"identical ({summary.identical})" if summary.identical else "not available"
    plain = f"{summary.mean:.4g}" if abs(summary.mean) > DUST else "0"
    return f"{plain} ({summary.identical} identical)" if summary.identical else plain


def median(summary: MetricSummary) -> str:
    """A median, if there is one."""
    return "" if summary.median is None else f"{summary.median:.4g}"


def interval(summary: MetricSummary) -> str:
    """A 95% interval, if there is one."""
    return "" if summary.ci95 is None else "[{:.4g}, {:.4g}]".format(*summary.ci95)
