"""The quantized models of a page as values, and whether their metrics can be compared."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import UsageProblem
from ..manifests import ImagesFacts, ImagesSpec
from ..manifests.kinds import DriftManifest, ImagesManifest, MetricsManifest, QuantStateManifest


@dataclass(frozen=True)
class ActivationTables:
    """The grids of all layers' inputs, as a quantizer state stores them."""

    scales: np.ndarray  # (entries) of all layers, one after the other
    zero_points: np.ndarray  # (entries)
    offsets: np.ndarray  # (layers + 1): where each layer's entries begin
    timesteps: np.ndarray | None  # (rows); None: the time table was removed


@dataclass(frozen=True)
class ComparedModel:
    """A quantized model: the manifests behind its metrics, and the arrays that a page shows."""

    metrics: MetricsManifest
    images: ImagesManifest
    state: QuantStateManifest
    drift: DriftManifest | None  # the newest measured on this state
    shared: Mapping[str, object]  # what other models must share with this one to be compared
    scores: Mapping[str, np.ndarray]  # metric -> the value of each image (N)
    activations: ActivationTables
    label: str = field(default="")  # unique among those of a page

    @property
    def count(self) -> int:
        """The number of images."""
        return self.images.facts.images


def labelled(models: Sequence[ComparedModel]) -> list[ComparedModel]:
    """Return the models with their labels; raises UsageProblem if their metrics cannot be compared."""
    for first, second in itertools.pairwise(models):
        _check_comparable(first, second)
    keys: set[str] = set()
    for model in models:
        if model.metrics.key in keys:
            raise UsageProblem(f"metrics/{model.metrics.key}: is named twice; name each artifact once")
        keys.add(model.metrics.key)
    return [
        replace(model, label=label) for model, label in zip(models, _shortest_labels(models), strict=True)
    ]


def _check_comparable(first: ComparedModel, second: ComparedModel) -> None:
    for field_name, value in first.shared.items():
        other = second.shared[field_name]
        if other != value:
            raise UsageProblem(
                f"metrics/{second.metrics.key}: {field_name} is {other}, but {value} in "
                f"metrics/{first.metrics.key}; metrics with different {field_name} cannot be compared"
            )


def _shortest_labels(models: Sequence[ComparedModel]) -> list[str]:
    """Return labels by bits; with the method, or else the key, if bits alone are not unique."""
    bits, methods, keys = [], [], []
    for model in models:
        spec = model.state.spec
        label = f"{spec.bits} mixed" if spec.mixed else spec.bits
        bits.append(label)
        methods.append(f"{label} {spec.method}")
        keys.append(f"{label} {model.state.key[:6]}")
    for labels in (bits, methods):
        if len(set(labels)) == len(labels):
            return labels
    return keys


def setting_facts(spec: ImagesSpec, facts: ImagesFacts) -> dict[str, str]:
    """Return how images were generated, in words."""
    setting = spec.setting.as_requested
    return {
        "model": setting.model.source,
        "scheduler": setting.scheduler,
        "steps": str(setting.steps),
        "guidance scale": f"{setting.guidance_scale:g}",
        "size": f"{setting.width} \u00d7 {setting.height}",
        "precision": setting.dtype,
        "images": str(facts.images),
        "noise seed": str(spec.seed),
    }
