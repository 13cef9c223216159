"""`evaluate --against fp`: how close quantized pictures are to the floating-point model's own."""

from collections.abc import Sequence

import numpy as np

from ..errors import EnvironmentProblem, GateFailed, UsageProblem
from ..events import SILENT, Events
from ..manifests import ImagesSpec, MetricsFacts, MetricsSpec, MetricSummary
from ..metrics.distribution import frechet
from ..metrics.features import ClipFeatures
from ..metrics.pairs import psnr, ssim
from ..metrics.summary import bootstrap_interval, clip_score, feature_distance
from ..models.load import EMBEDDED_FOLDER
from ..store import ArraySpec, Artifact, Store
from ..types import Gate, Kind
from .chain import Plan, announce, publish, refs, up_to_date, use_device
from .generate import draw
from .requests import EvaluateRequest
from .texts import read_prompts

BATCH = 64
PSNR, SSIM, FEATURES, FID = "psnr", "ssim", "feature_distance[shapes-clip]", "fid[shapes-clip]"
CLIP, CLIP_DIFFERENCE = "clip_score[shapes-clip]", "clip_score_difference[shapes-clip]"
METRICS = (PSNR, SSIM, FEATURES, FID, CLIP, CLIP_DIFFERENCE)
COLUMNS = ("psnr", "ssim", "feature_distance", "clip", "clip_reference")  # a value per picture


def plan(request: EvaluateRequest, store: Store) -> Plan:
    _check_names(request.gate)
    images = _images(request, store)
    return Plan("evaluate", {"images": images.facts.images})


def run(request: EvaluateRequest, store: Store, events: Events = SILENT) -> Artifact:
    """Compare the latest quantized pictures with floating-point ones of the same prompts and noise."""
    _check_names(request.gate)
    images = _images(request, store)
    prompts = store.follow(images.manifest.inputs["prompts"])
    embeds = store.follow(images.manifest.inputs["text-embeds"])
    spec: ImagesSpec = images.spec.model_copy(update={"engine": "fp"})
    reference = draw(spec, prompts, embeds, None, store, use_device(request.device), events)
    announce(events, {"images": images, "reference": reference})
    n = images.facts.images
    arrays = {name: ArraySpec((n,), "float64", ("sample",)) for name in COLUMNS}
    inputs = refs({"images": images, "reference": reference})
    draft = store.begin(MetricsSpec(metrics=METRICS), inputs, arrays)
    if isinstance(draft, Artifact):
        return up_to_date(store, draft, events)
    rows, fid = _measure(images, reference, read_prompts(prompts), events)
    for unit in draft.missing():
        draft.write(unit, rows)
    return publish(store, draft, MetricsFacts(metrics=_summaries(rows, fid)))


def check_gates(metrics: Artifact, gates: Sequence[str]) -> None:
    """Raise GateFailed with the bounds that are not met; EnvironmentProblem for a metric without a value."""
    found = metrics.facts.metrics
    failed = []
    for gate in map(Gate.parse, gates):
        value = found[gate.metric].mean
        if value is None:
            raise EnvironmentProblem(
                f"--gate {gate}: {gate.metric} has no value for {found[gate.metric].n} images"
            )
        if not gate.passes(value):
            failed.append(f"{gate} (is {value:.4g})")
    if failed:
        raise GateFailed(f"gate not met: {', '.join(failed)}")


def _check_names(gates: Sequence[str]) -> None:
    for gate in map(Gate.parse, gates):
        if gate.metric not in METRICS:
            raise UsageProblem(f"--gate {gate}: no metric {gate.metric!r}; there are {', '.join(METRICS)}")


def _images(request: EvaluateRequest, store: Store) -> Artifact:
    if request.against != "fp":
        raise UsageProblem(f"--against {request.against}: expected fp")
    images = store.resolve(request.images) if request.images else store.need(Kind.IMAGES, "latest-quantized")
    if images.manifest.kind is not Kind.IMAGES:
        raise UsageProblem(f"--images {request.images}: is {images.manifest.kind}, expected images")
    return images


def _measure(
    images: Artifact, reference: Artifact, prompts: list[str], events: Events
) -> tuple[dict[str, np.ndarray], float]:
    """Values per picture, and the Fréchet distance of the two sets."""
    clip = ClipFeatures(EMBEDDED_FOLDER / "clip")
    rows: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    features: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    n = images.facts.images
    with events.task("measuring", n, "image") as task:
        for start in range(0, n, BATCH):
            stop = min(start + BATCH, n)
            ours, theirs = (a.read("image", start, stop) for a in (images, reference))
            texts = clip.of_texts(prompts[start:stop])
            found = [clip.of_images(pictures) for pictures in (ours, theirs)]
            for kept, new in zip(features, found, strict=True):
                kept.append(new)
            rows["psnr"].append(psnr(ours, theirs))
            rows["ssim"].append(ssim(ours, theirs))
            rows["feature_distance"].append(feature_distance(*found))
            rows["clip"].append(clip_score(found[0], texts))
            rows["clip_reference"].append(clip_score(found[1], texts))
            task.advance(stop - start)
    width = features[0][0].shape[1]
    if n < 10 * width:
        events.warn(
            f"fid[shapes-clip] of {n} images over {width} features is biased; compare it at equal N only"
        )
    fid = frechet(*(np.concatenate(kept) for kept in features)) if n > 1 else float("nan")
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in rows.items()}, fid


def _summaries(rows: dict[str, np.ndarray], fid: float) -> dict[str, MetricSummary]:
    difference = rows["clip"] - rows["clip_reference"]
    return {
        PSNR: _summary(rows["psnr"]),
        SSIM: _summary(rows["ssim"]),
        FEATURES: _summary(rows["feature_distance"]),
        FID: MetricSummary(mean=None if np.isnan(fid) else fid, n=len(difference)),
        CLIP: _summary(rows["clip"]),
        CLIP_DIFFERENCE: _summary(difference),
    }


def _summary(values: np.ndarray) -> MetricSummary:
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return MetricSummary(mean=float(values.mean()), std=std, ci95=bootstrap_interval(values), n=len(values))


def document(artifact: Artifact) -> dict[str, object]:
    """What `evaluate --json` prints: `metrics` by name first, then a row for each image."""
    values = {name: artifact.read(name) for name in COLUMNS}
    return {
        "format": 1,
        "artifact": f"{artifact.manifest.kind}/{artifact.manifest.key}",
        "inputs": {role: f"{ref.kind}/{ref.key}" for role, ref in artifact.manifest.inputs.items()},
        "metrics": {
            name: summary.model_dump(mode="json") for name, summary in artifact.facts.metrics.items()
        },
        "images": [
            {"index": i, **{name: float(column[i]) for name, column in values.items()}}
            for i in range(len(values["psnr"]))
        ],
    }
