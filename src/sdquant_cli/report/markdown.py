"""Metrics as Markdown, for the summary page of a CI job."""

from collections.abc import Mapping

from ..manifests import MetricsFacts
from . import numbers

HEAD = (
    "| metric | mean | 95% interval | median | other seed | self-baseline | N |",
    "|---|---|---|---|---|---|---|",
)


def metrics_summary(facts: MetricsFacts, title: str, verdicts: Mapping[str, bool]) -> str:
    """Return a table of all metrics under a title, and a line for each gate."""
    lines = [f"### {title}", "", *HEAD]
    for name, summary in facts.metrics.items():
        lines.append(
            f"| {name} | {numbers.mean(summary)} | {numbers.interval(summary)} | {numbers.median(summary)} "
            f"| {numbers.mean(facts.floor.get(name))} | {numbers.mean(facts.itself.get(name))} "
            f"| {summary.n or ''} |"
        )
    lines.append("")
    for gate, met in verdicts.items():
        lines.append(f"- `{gate}` {'met' if met else '**not met**'}")
    return "\n".join([*lines, ""])
