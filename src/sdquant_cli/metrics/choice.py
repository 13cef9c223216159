"""The metrics to compute: those whose weight files are present, with the reasons why others are left out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import EnvironmentProblem, UsageProblem
from ..manifests import MetricsSpec, MetricSummary
from ..types import Gate
from .catalog import CATALOG, Form, Metric, metric_named
from .weights import WEIGHT_FILES, Weights


@dataclass(frozen=True)
class Chosen:
    """The metrics to compute, and the summaries of those that are skipped."""

    names: tuple[str, ...]
    skipped: dict[str, MetricSummary]
    weights: Weights

    @property
    def of_single_pictures(self) -> list[str]:
        """The metrics that have a value for each picture."""
        return [name for name in self.names if CATALOG[name].form is not Form.SETS]

    @property
    def spec(self) -> MetricsSpec:
        """The metrics with the sha256 of their weight files."""
        files: set[str] = set()
        for name in self.names:
            files.update(CATALOG[name].files)
        weights = {file: WEIGHT_FILES[file].sha256 for file in sorted(files)}
        return MetricsSpec(metrics=self.names, weights=weights)


def required_metrics(gates: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Return the flag that asks for a metric, by metric; raises UsageProblem for an unknown one."""
    required = {gate.metric: f"--gate {gate}" for gate in map(Gate.parse, gates)}
    required |= {name: f"--require {name}" for name in names}
    for name, flag in required.items():
        metric_named(name, flag)
    return required


def choose(required: Mapping[str, str], weights: Weights, *, prompts: bool = True) -> Chosen:
    """Choose the metrics that can be computed, with or without prompts.

    Raises for a required one that cannot: UsageProblem without prompts, EnvironmentProblem without weights.
    """
    names: list[str] = []
    skipped: dict[str, MetricSummary] = {}
    for name, metric in CATALOG.items():
        missing = weights.missing(metric.files)
        if _reads_prompts(metric) and not prompts:
            missing = ["--prompts"]
        if not missing:
            names.append(name)
            continue
        if name in required:
            _refuse(required[name], missing, weights)
        skipped[name] = MetricSummary(mean=None, n=0, skipped=f"needs {', '.join(missing)}")
    return Chosen(tuple(names), skipped, weights)


def _reads_prompts(metric: Metric) -> bool:
    return metric.form in (Form.TEXT, Form.TEXT_DIFFERENCE)


def _refuse(flag: str, missing: list[str], weights: Weights) -> None:
    if missing == ["--prompts"]:
        raise UsageProblem(f"{flag}: needs the prompts of the pictures; pass --prompts FILE")
    raise EnvironmentProblem(
        f"{flag}: needs {', '.join(missing)}, not in {weights.folder}; "
        f"`sdquant doctor` says where to get it, `sdquant evaluate --download` fetches it"
    )
