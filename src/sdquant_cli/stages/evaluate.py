"""`evaluate`: how close pictures are to the floating-point model's own.

Every metric is measured on three sets of pictures against one reference: those in question,
floating-point pictures of other noise (the baseline of another seed), and the reference itself.
`compare` does the same for folders of pictures.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..artifacts.features import KeptFeatures
from ..artifacts.images import Drawing, Images, draw
from ..artifacts.metrics import Metrics, layout
from ..artifacts.prompts import Prompts
from ..artifacts.text_embeds import TextEmbeds
from ..artifacts.workspace import Blueprint, Plan, Workspace
from ..errors import EnvironmentProblem, GateFailed, MissingArtifact, UsageProblem
from ..manifests import MetricsFacts, MetricSummary
from ..metrics.choice import Chosen, choose, required_metrics
from ..metrics.measures import Measured, Measures, Networks
from ..metrics.weights import WEIGHT_FILES, Weights
from ..models.load import EMBEDDED_FOLDER
from ..options.requests import EvaluateRequest
from ..paths import atomic_append, check_output
from ..pictures import is_folder
from ..report.markdown import metrics_summary
from ..store import Draft
from ..types import Execution, Gate
from .drift import measure_drift

FP = "fp"
EMBEDDED_CLIP = EMBEDDED_FOLDER / "clip"


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


def is_of_folders(request: EvaluateRequest) -> bool:
    """Tell if a request names two folders, which `compare` takes; `fp` is the model, `./fp` a folder."""
    names = (request.images or "", request.against)
    return FP not in names and all(map(is_folder, names))


def plan(request: EvaluateRequest, workspace: Workspace) -> Plan:
    """Return what `run` would do."""
    check_files(request, workspace)
    chosen = choose({}, Weights(request.weights_dir))
    numbers: dict[str, int | float | str] = {
        "images": _images(request, workspace).count,
        "metrics": len(chosen.names),
        "skipped": len(chosen.skipped),
    }
    required = required_metrics(request.gate, request.require)
    if lacking := [name for name in required if name in chosen.skipped]:
        numbers["required, without their weights"] = ", ".join(lacking)
    return Plan("evaluate", numbers)


def run(request: EvaluateRequest, workspace: Workspace) -> Metrics:
    """Compare pictures (the latest quantized ones) with floating-point ones of the same prompts and noise."""
    check_files(request, workspace)
    workspace = workspace.on(request.device)
    weights = Weights(request.weights_dir)
    if request.download:
        weights.download(WEIGHT_FILES, workspace.events)
    chosen = choose(required_metrics(request.gate, request.require), weights)
    images = _images(request, workspace)
    if request.drift and "state" not in images.manifest.inputs:
        raise UsageProblem(f"--drift: {images.name} are floating-point pictures, there is no drift")
    sides = _sides(request, workspace, images)
    workspace.announce(sides.by_role)
    if request.drift:
        measure_drift(workspace, images, request.drift_prompts)
    arrays = layout(chosen.of_single_pictures, images.count)
    blueprint = Blueprint(chosen.spec, sides.by_role, arrays)
    measure = partial(_measure, workspace, chosen, sides)

    def fill(draft: Draft) -> MetricsFacts:
        measured = measure()
        for unit in draft.missing():
            draft.write(unit, measured.columns)
        return measured.facts

    return workspace.produce(Metrics, blueprint, fill, assist=measure)


def _measure(workspace: Workspace, chosen: Chosen, sides: _Sides) -> Measured:
    prompts = workspace.input(Prompts, sides.images, "prompts").texts()
    networks = Networks(chosen.weights, workspace.device, EMBEDDED_CLIP)
    measures = Measures(chosen, networks, KeptFeatures(workspace, networks), prompts, workspace.events)
    return measures.measure(sides.images, sides.reference, sides.floor)


def check_files(request: EvaluateRequest, workspace: Workspace) -> None:
    """Raise UsageProblem for what stored images do not take, and a file that cannot be written at the end."""
    if is_of_folders(request):
        raise UsageProblem(
            f"--images {request.images}: is a folder; only `sdquant evaluate` compares folders"
        )
    for flag, value in (("--prompts", request.prompts), ("--column", request.column)):
        if value is not None:
            raise UsageProblem(f"{flag} {value}: is for folders of images; stored ones have their prompts")
    if request.output is not None:
        raise UsageProblem(
            f"--output {request.output}: is for folders of images; run `sdquant report` for stored ones"
        )
    if request.summary is not None:
        check_output(request.summary, "--summary", workspace.store.url)


@contextmanager
def _telling_folders(request: EvaluateRequest) -> Iterator[None]:
    """Turn a missing artifact into a UsageProblem where one of both names is a folder."""
    try:
        yield
    except MissingArtifact:
        names = {"--images": request.images or FP, "--against": request.against}
        for flag, other in (("--images", "--against"), ("--against", "--images")):
            if names[flag] != FP and is_folder(names[flag]):
                raise UsageProblem(
                    f"{flag} {names[flag]}: is a folder, but {other} names none; "
                    f"give a folder to both or neither"
                ) from None
        raise


def _images(request: EvaluateRequest, workspace: Workspace) -> Images:
    with _telling_folders(request):
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
        with _telling_folders(request):
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


# -------------------------------------------------------------------------- what is told of it


def conclude(metrics: Metrics, request: EvaluateRequest) -> None:
    """Write the Markdown summary and check the gates; raises GateFailed with those that are not met."""
    judge(metrics.facts, f"Distance to the floating-point model ({metrics.name})", request)


def judge(facts: MetricsFacts, title: str, request: EvaluateRequest) -> None:
    """Write the Markdown summary under a title and check the gates; raises GateFailed."""
    verdicts: dict[str, bool] = {}
    failed = []
    for gate in map(Gate.parse, request.gate):
        value = _gated_value(facts.metrics[gate.metric], gate)
        verdicts[str(gate)] = gate.passes(value)
        if not gate.passes(value):
            failed.append(f"{gate} (is {value:.4g})")
    if request.summary is not None:
        atomic_append(request.summary, metrics_summary(facts, title, verdicts))
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
    return {
        "format": 1,
        "artifact": metrics.name,
        "inputs": {role: ref.name for role, ref in metrics.manifest.inputs.items()},
        **metrics.facts.model_dump(mode="json"),
        "images": rows({name: metrics.read(name) for name in metrics.manifest.arrays}),
    }


def rows(columns: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
    """Return for JSON a row for each picture, with its index and the value in each column (N)."""
    found: list[dict[str, object]] = []
    for index in range(len(next(iter(columns.values())))):
        row: dict[str, object] = {"index": index}
        for name, column in columns.items():
            row[name] = _number(column[index])
        found.append(row)
    return found


def _number(value: np.float64) -> float | None:
    """Return a number for JSON, which has no infinity: the PSNR of identical pictures is null."""
    return float(value) if np.isfinite(value) else None
