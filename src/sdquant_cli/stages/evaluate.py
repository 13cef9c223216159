"""`evaluate`: how close pictures are to the floating-point model's own.

Every metric is measured on three sets of pictures against one reference: those in question,
floating-point pictures of other noise (the floor), and the reference itself.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..artifacts.features import Measures
from ..artifacts.images import draw
from ..artifacts.prompts import read_prompts
from ..artifacts.workspace import Plan, announce, publish, refs, up_to_date, use_device, what_pictures_share
from ..errors import EnvironmentProblem, GateFailed, UsageProblem
from ..events import SILENT, Events
from ..manifests import ImagesSpec, MetricsFacts, MetricsSpec, MetricSummary
from ..metrics.catalog import CATALOG, NETWORK_WIDTHS, Form, metric_named
from ..metrics.scores import summarise
from ..metrics.weights import WEIGHT_FILES, Weights
from ..options.requests import EvaluateRequest
from ..paths import atomic_append, check_output
from ..report.markdown import metrics_summary
from ..store import ArraySpec, Artifact, Store
from ..types import Execution, Gate, Kind
from .drift import measure_drift

FP = "fp"


def plan(request: EvaluateRequest, store: Store) -> Plan:
    names, skipped = _choose(request, Weights(request.weights_dir))
    images = _images(request, store)
    return Plan("evaluate", {"images": images.facts.images, "metrics": len(names), "skipped": len(skipped)})


def run(request: EvaluateRequest, store: Store, events: Events = SILENT) -> Artifact:
    """Compare pictures (the latest quantized ones) with floating-point ones of the same prompts and noise."""
    check_files(request, store)
    weights, device = Weights(request.weights_dir), use_device(request.device)
    if request.download:
        weights.download(WEIGHT_FILES, events)
    names, skipped = _choose(request, weights)
    images = _images(request, store)
    if request.drift and "state" not in images.manifest.inputs:
        raise UsageProblem(f"--drift: {images.name} are floating-point pictures, there is no drift")
    prompts = store.follow(images.manifest.inputs["prompts"])
    reference, floor = _counterparts(request, images, prompts, store, device, events)
    inputs = {"images": images, "reference": reference} | ({"floor": floor} if floor else {})
    announce(events, inputs)
    if request.drift:
        measure_drift(images, request.drift_prompts, store, device, events)
    n = images.facts.images
    per_picture = [name for name in names if CATALOG[name].form is not Form.SETS]
    arrays = {name: ArraySpec((n,), "float64", ("sample",), finite=False) for name in per_picture}
    files = {file for name in names for file in CATALOG[name].files}
    spec = MetricsSpec(
        metrics=tuple(names), weights={file: WEIGHT_FILES[file].sha256 for file in sorted(files)}
    )
    draft = store.begin(spec, refs(inputs), arrays)
    if isinstance(draft, Artifact):
        return up_to_date(store, draft, events)
    measures = Measures(names, read_prompts(prompts), store, weights, device, events)
    values = {role: measures.compare(side, reference) for role, side in inputs.items()}
    _warn_of_small_n(names, n, events)
    for unit in draft.missing():
        columns = {name: np.asarray(values["images"][name]) for name in per_picture}
        draft.write(unit, columns)  # some metrics have no number, or infinity
    facts = MetricsFacts(
        metrics=_summaries(values["images"], n) | skipped,
        floor=_summaries(values["floor"], n) if floor else {},
        itself=_summaries(values["reference"], n),
    )
    return publish(store, draft, facts)


def check_files(request: EvaluateRequest, store: Store) -> None:
    """Raise UsageProblem for a file of a request that cannot be written when all is done."""
    if request.summary is not None:
        check_output(request.summary, "--summary", store.url)


def _choose(request: EvaluateRequest, weights: Weights) -> tuple[list[str], dict[str, MetricSummary]]:
    """The metrics whose weights are there, and a summary that says why for each of the others."""
    wanted = {gate.metric: f"--gate {gate}" for gate in map(Gate.parse, request.gate)}
    wanted |= {name: f"--require {name}" for name in request.require}
    for name, flag in wanted.items():
        metric_named(name, flag)
    names, skipped = [], {}
    for name, metric in CATALOG.items():
        missing = weights.missing(metric.files)
        if not missing:
            names.append(name)
            continue
        if name in wanted:
            raise EnvironmentProblem(
                f"{wanted[name]}: needs {', '.join(missing)}, not in {weights.folder}; "
                f"`sdquant doctor` says where to get it, `sdquant evaluate --download` fetches it"
            )
        skipped[name] = MetricSummary(mean=None, n=0, skipped=f"needs {', '.join(missing)}")
    return names, skipped


def _images(request: EvaluateRequest, store: Store) -> Artifact:
    if request.images is None:
        return store.need(Kind.IMAGES, "latest-quantized")
    return _resolve_images(request.images, "--images", store)


def _resolve_images(name: str, flag: str, store: Store) -> Artifact:
    found = store.resolve(name)
    if found.manifest.kind is not Kind.IMAGES:
        raise UsageProblem(f"{flag} {name}: is {found.manifest.kind}, expected images")
    return found


def _counterparts(
    request: EvaluateRequest,
    images: Artifact,
    prompts: Artifact,
    store: Store,
    device: torch.device,
    events: Events,
) -> tuple[Artifact, Artifact | None]:
    """The reference, and the floor: floating-point pictures from the next seed's noise."""
    embeds = store.follow(images.manifest.inputs["text-embeds"])
    spec: ImagesSpec = images.spec.model_copy(update={"engine": Execution.FP})
    if request.against == FP:
        reference = draw(spec, prompts, embeds, None, store, device, events, tags=("latest-fp",))
    else:
        reference = _resolve_images(request.against, "--against", store)
        _refuse_unless_comparable(images, reference, request.against)
    if not request.floor:
        return reference, None
    other = spec.model_copy(update={"seed": spec.seed + 1})
    return reference, draw(other, prompts, embeds, None, store, device, events, tags=("latest-floor",))


def _refuse_unless_comparable(images: Artifact, reference: Artifact, name: str) -> None:
    """Raise UsageProblem for the first thing that two sets of pictures should share and do not."""
    ours, theirs = what_pictures_share(images), what_pictures_share(reference)
    for field, value in ours.items():
        if theirs[field] != value:
            raise UsageProblem(
                f"--against {name}: {field} is {theirs[field]}, of {images.name} it is {value}; "
                f"compare pictures that differ in nothing but the quantization"
            )


def _summaries(values: dict[str, np.ndarray | float], n: int) -> dict[str, MetricSummary]:
    found = {}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            found[name] = summarise(value, CATALOG[name].distance)
        else:
            found[name] = MetricSummary(mean=None if math.isnan(value) else value, n=n)
    return {name: found[name] for name in CATALOG if name in found}


def _warn_of_small_n(names: Sequence[str], n: int, events: Events) -> None:
    biased = [metric for name in names if (metric := CATALOG[name]).formula in ("fid", "sfid")]
    widths = {metric.name: NETWORK_WIDTHS[metric.network or ""] for metric in biased}
    small = [f"{name} ({width} features)" for name, width in widths.items() if n < 10 * width]
    if small:
        events.warn(f"{n} pictures are few for {', '.join(small)}: biased upwards, compare at equal N only")


def conclude(metrics: Artifact, request: EvaluateRequest) -> None:
    """Write the Markdown summary and check the gates; raises GateFailed with those that are not met."""
    found, gates = metrics.facts.metrics, [Gate.parse(text) for text in request.gate]
    values = {str(gate): _gated_value(found[gate.metric], gate) for gate in gates}
    verdicts = {str(gate): gate.passes(values[str(gate)]) for gate in gates}
    if request.summary is not None:
        atomic_append(request.summary, metrics_summary(metrics.facts, metrics.name, verdicts))
    failed = [f"{text} (is {values[text]:.4g})" for text, met in verdicts.items() if not met]
    if failed:
        raise GateFailed(f"gate not met: {', '.join(failed)}")


def _gated_value(summary: MetricSummary, gate: Gate) -> float:
    if summary.mean is not None:
        return summary.mean
    if summary.identical:
        return math.inf
    raise EnvironmentProblem(f"--gate {gate}: {gate.metric} has no value for {summary.n} pictures")


def document(artifact: Artifact) -> dict[str, object]:
    """What `evaluate --json` prints: `metrics` by name first, then a row for each picture."""
    manifest, facts = artifact.manifest, artifact.facts.model_dump(mode="json")
    columns = {name: artifact.read(name) for name in manifest.arrays}
    count = len(next(iter(columns.values())))
    return {
        "format": 1,
        "artifact": artifact.name,
        "inputs": {role: ref.name for role, ref in manifest.inputs.items()},
        **facts,
        "images": [
            {"index": i, **{name: _number(column[i]) for name, column in columns.items()}}
            for i in range(count)
        ],
    }


def _number(value: np.float64) -> float | None:
    """JSON has no infinity: the PSNR of identical pictures is null."""
    return float(value) if np.isfinite(value) else None
