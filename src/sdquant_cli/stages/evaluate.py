"""`evaluate`: how close pictures are to the floating-point model's own.

Every metric is measured on three sets of pictures against one reference: those in question,
floating-point pictures of other noise (the baseline of another seed), and the reference itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..artifacts.features import Measures
from ..artifacts.images import Drawing, Images, draw
from ..artifacts.metrics import Metrics, layout
from ..artifacts.prompts import Prompts
from ..artifacts.text_embeds import TextEmbeds
from ..artifacts.workspace import Blueprint, Plan, Workspace
from ..errors import EnvironmentProblem, GateFailed, UsageProblem
from ..events import Events
from ..manifests import MetricsFacts, MetricsSpec, MetricSummary
from ..metrics.catalog import CATALOG, NETWORK_WIDTHS, Form, metric_named
from ..metrics.scores import summarise
from ..metrics.weights import WEIGHT_FILES, Weights
from ..options.requests import EvaluateRequest
from ..paths import atomic_append, check_output
from ..report.markdown import metrics_summary
from ..store import Draft
from ..types import Execution, Gate
from .drift import measure_drift

FP = "fp"


@dataclass(frozen=True)
class _Chosen:
    """The metrics whose weights are present, and why the others are left out."""

    names: list[str]
    skipped: dict[str, MetricSummary]
    weights: Weights

    @property
    def of_single_pictures(self) -> list[str]:
        return [name for name in self.names if CATALOG[name].form is not Form.SETS]

    @property
    def spec(self) -> MetricsSpec:
        files: set[str] = set()
        for name in self.names:
            files.update(CATALOG[name].files)
        weights = {file: WEIGHT_FILES[file].sha256 for file in sorted(files)}
        return MetricsSpec(metrics=tuple(self.names), weights=weights)


@dataclass(frozen=True)
class _Sides:
    """Sets of pictures: those in question, their reference, and the baseline of another seed, if any."""

    images: Images
    reference: Images
    floor: Images | None

    @property
    def by_role(self) -> dict[str, Images]:
        sides = {"images": self.images, "reference": self.reference}
        return sides | ({"floor": self.floor} if self.floor else {})


def plan(request: EvaluateRequest, workspace: Workspace) -> Plan:
    """Return what `run` would do."""
    chosen = _choose(request, Weights(request.weights_dir))
    count = _images(request, workspace).facts.images
    return Plan("evaluate", {"images": count, "metrics": len(chosen.names), "skipped": len(chosen.skipped)})


def run(request: EvaluateRequest, workspace: Workspace) -> Metrics:
    """Compare pictures (the latest quantized ones) with floating-point ones of the same prompts and noise."""
    check_files(request, workspace)
    workspace = workspace.on(request.device)
    weights = Weights(request.weights_dir)
    if request.download:
        weights.download(WEIGHT_FILES, workspace.events)
    chosen = _choose(request, weights)
    images = _images(request, workspace)
    if request.drift and "state" not in images.manifest.inputs:
        raise UsageProblem(f"--drift: {images.name} are floating-point pictures, there is no drift")
    sides = _sides(request, workspace, images)
    workspace.announce(sides.by_role)
    if request.drift:
        measure_drift(workspace, images, request.drift_prompts)
    arrays = layout(chosen.of_single_pictures, images.facts.images)
    blueprint = Blueprint(chosen.spec, sides.by_role, arrays)
    return workspace.produce(Metrics, blueprint, partial(_measure, workspace, chosen, sides))


def _measure(workspace: Workspace, chosen: _Chosen, sides: _Sides, draft: Draft) -> MetricsFacts:
    prompts = workspace.input(Prompts, sides.images, "prompts").texts()
    measures = Measures(workspace, chosen.names, prompts, chosen.weights)
    values = {role: measures.compare(side, sides.reference) for role, side in sides.by_role.items()}
    count = sides.images.facts.images
    _warn_of_small_n(chosen.names, count, workspace.events)
    for unit in draft.missing():
        columns = {name: np.asarray(values["images"][name]) for name in chosen.of_single_pictures}
        draft.write(unit, columns)
    return MetricsFacts(
        metrics=_summaries(values["images"], count) | chosen.skipped,
        floor=_summaries(values["floor"], count) if sides.floor else {},
        itself=_summaries(values["reference"], count),
    )


def check_files(request: EvaluateRequest, workspace: Workspace) -> None:
    """Raise UsageProblem for a file of a request that cannot be written when all is done."""
    if request.summary is not None:
        check_output(request.summary, "--summary", workspace.store.url)


def _choose(request: EvaluateRequest, weights: Weights) -> _Chosen:
    """Choose the metrics whose weights are present; raises EnvironmentProblem for a required one's."""
    required = {gate.metric: f"--gate {gate}" for gate in map(Gate.parse, request.gate)}
    required |= {name: f"--require {name}" for name in request.require}
    for name, flag in required.items():
        metric_named(name, flag)
    names: list[str] = []
    skipped: dict[str, MetricSummary] = {}
    for name, metric in CATALOG.items():
        missing = weights.missing(metric.files)
        if not missing:
            names.append(name)
            continue
        if name in required:
            raise EnvironmentProblem(
                f"{required[name]}: needs {', '.join(missing)}, not in {weights.folder}; "
                f"`sdquant doctor` says where to get it, `sdquant evaluate --download` fetches it"
            )
        skipped[name] = MetricSummary(mean=None, n=0, skipped=f"needs {', '.join(missing)}")
    return _Chosen(names, skipped, weights)


def _images(request: EvaluateRequest, workspace: Workspace) -> Images:
    if request.images is None:
        return workspace.need(Images, "latest-quantized")
    return workspace.resolve(Images, request.images, "--images")


def _sides(request: EvaluateRequest, workspace: Workspace, images: Images) -> _Sides:
    """Return the sets to compare; floating-point pictures are drawn where they are absent."""
    drawing = Drawing(
        images.spec.model_copy(update={"engine": Execution.FP}),
        workspace.input(Prompts, images, "prompts"),
        workspace.input(TextEmbeds, images, "text-embeds"),
    )
    if request.against == FP:
        reference = draw(workspace, drawing, ("latest-fp",))
    else:
        reference = workspace.resolve(Images, request.against, "--against")
        _refuse_unless_comparable(images, reference, request.against)
    if not request.floor:
        return _Sides(images, reference, None)
    other_seed = drawing.spec.model_copy(update={"seed": drawing.spec.seed + 1})
    floor = draw(workspace, replace(drawing, spec=other_seed), ("latest-floor",))
    return _Sides(images, reference, floor)


def _refuse_unless_comparable(images: Images, reference: Images, name: str) -> None:
    """Raise UsageProblem for the first thing that two sets of pictures should share and do not."""
    theirs = reference.comparable()
    for field, value in images.comparable().items():
        if theirs[field] != value:
            raise UsageProblem(
                f"--against {name}: {field} is {theirs[field]}, of {images.name} it is {value}; "
                f"compare pictures that differ in nothing but the quantization"
            )


def _summaries(values: Mapping[str, np.ndarray | float], count: int) -> dict[str, MetricSummary]:
    """Return the summary of each metric, in the catalog's order."""
    summaries: dict[str, MetricSummary] = {}
    for name, metric in CATALOG.items():
        value = values.get(name)
        if isinstance(value, np.ndarray):
            summaries[name] = summarise(value, metric.distance)
        elif value is not None:
            summaries[name] = MetricSummary(mean=None if math.isnan(value) else value, n=count)
    return summaries


def _warn_of_small_n(names: Sequence[str], count: int, events: Events) -> None:
    """Warn of distances between sets whose features outnumber the pictures: they are biased upwards."""
    biased = []
    for name in names:
        metric = CATALOG[name]
        width = NETWORK_WIDTHS[metric.network or ""] if metric.formula in ("fid", "sfid") else 0
        if count < 10 * width:
            biased.append(f"{name} ({width} features)")
    if biased:
        events.warn(
            f"{count} pictures are few for {', '.join(biased)}: biased upwards, compare at equal N only"
        )


def conclude(metrics: Metrics, request: EvaluateRequest) -> None:
    """Write the Markdown summary and check the gates; raises GateFailed with those that are not met."""
    verdicts: dict[str, bool] = {}
    failed = []
    for gate in map(Gate.parse, request.gate):
        value = _gated_value(metrics.facts.metrics[gate.metric], gate)
        verdicts[str(gate)] = gate.passes(value)
        if not gate.passes(value):
            failed.append(f"{gate} (is {value:.4g})")
    if request.summary is not None:
        atomic_append(request.summary, metrics_summary(metrics.facts, metrics.name, verdicts))
    if failed:
        raise GateFailed(f"gate not met: {', '.join(failed)}")


def _gated_value(summary: MetricSummary, gate: Gate) -> float:
    if summary.mean is not None:
        return summary.mean
    if summary.identical:
        return math.inf
    raise EnvironmentProblem(f"--gate {gate}: {gate.metric} has no value for {summary.n} pictures")


def document(metrics: Metrics) -> dict[str, object]:
    """Return what `evaluate --json` prints: `metrics` by name first, then a row for each picture."""
    columns = {name: metrics.read(name) for name in metrics.manifest.arrays}
    rows: list[dict[str, object]] = []
    for index in range(len(next(iter(columns.values())))):
        row: dict[str, object] = {"index": index}
        for name, column in columns.items():
            row[name] = _number(column[index])
        rows.append(row)
    return {
        "format": 1,
        "artifact": metrics.name,
        "inputs": {role: ref.name for role, ref in metrics.manifest.inputs.items()},
        **metrics.facts.model_dump(mode="json"),
        "images": rows,
    }


def _number(value: np.float64) -> float | None:
    """Return a number for JSON, which has no infinity: the PSNR of identical pictures is null."""
    return float(value) if np.isfinite(value) else None
