"""Which quantized models a report shows, and whether their numbers may stand side by side."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..artifacts.images import Images
from ..errors import UsageProblem
from ..store import Artifact, Store
from ..types import Kind


@dataclass(frozen=True)
class ComparedModel:
    """One quantized model: its metrics and what they were measured on."""

    label: str  # unique among those of a report
    metrics: Artifact
    images: Artifact
    reference: Artifact
    prompts: Artifact
    state: Artifact
    drift: Artifact | None  # the newest that was measured on this state

    @property
    def scores(self) -> tuple[str, ...]:
        """Metrics that have a value for each picture."""
        arrays = self.metrics.manifest.arrays
        return tuple(name for name in arrays if arrays[name].shape == (self.images.facts.images,))


def compared(names: Sequence[str], store: Store) -> list[ComparedModel]:
    """The models behind metrics artifacts; raises UsageProblem where they cannot be compared."""
    found = [_follow(name, store) for name in names or (Kind.METRICS.value,)]
    for first, second in itertools.pairwise(found):
        _check_comparable(first, second)
    keys = [model.metrics.manifest.key for model in found]
    for i, name in enumerate(names):
        if keys[i] in keys[:i]:
            raise UsageProblem(f"{name}: metrics/{keys[i]} is named twice")
    return _with_labels(found)


def _follow(name: str, store: Store) -> ComparedModel:
    metrics = store.resolve(name)
    if metrics.manifest.kind is not Kind.METRICS:
        raise UsageProblem(
            f"{name}: is {metrics.manifest.kind}, expected metrics; `sdquant evaluate` makes them from images"
        )
    images = store.follow(metrics.manifest.inputs["images"])
    if "state" not in images.manifest.inputs:
        raise UsageProblem(
            f"{name}: measures floating-point pictures (images/{images.manifest.key}); "
            f"a report is of quantized ones"
        )
    state = store.follow(images.manifest.inputs["state"])
    drifts = [a for a in store.dependents(state.manifest) if a.manifest.kind is Kind.DRIFT]
    return ComparedModel(
        label="",
        metrics=metrics,
        images=images,
        reference=store.follow(metrics.manifest.inputs["reference"]),
        prompts=store.follow(images.manifest.inputs["prompts"]),
        state=state,
        drift=drifts[-1] if drifts else None,
    )


def _check_comparable(first: ComparedModel, second: ComparedModel) -> None:
    ours, theirs = (
        Images.of(model.images).comparable() | {"reference": model.reference.manifest.key}
        for model in (first, second)
    )
    for field, value in ours.items():
        if theirs[field] != value:
            raise UsageProblem(
                f"metrics/{second.metrics.manifest.key}: {field} is {theirs[field]}, but {value} in "
                f"metrics/{first.metrics.manifest.key}; only metrics of one {field} stand side by side"
            )


def _with_labels(models: list[ComparedModel]) -> list[ComparedModel]:
    """Label by bits; by method and key too where less does not tell the models apart."""
    specs = [model.state.spec for model in models]
    bits = [f"{spec.bits} mixed" if spec.mixed else spec.bits for spec in specs]
    methods = [f"{label} {spec.method}" for label, spec in zip(bits, specs, strict=True)]
    keys = [f"{label} {m.state.manifest.key[:6]}" for label, m in zip(bits, models, strict=True)]
    labels = next((names for names in (bits, methods) if len(set(names)) == len(names)), keys)
    return [replace(model, label=label) for model, label in zip(models, labels, strict=True)]


def setting_facts(images: Artifact) -> dict[str, str]:
    """How pictures were drawn, in words."""
    setting = images.spec.setting
    return {
        "model": setting.model.source,
        "scheduler": setting.scheduler,
        "steps": str(setting.steps),
        "guidance scale": f"{setting.guidance_scale:g}",
        "size": f"{setting.width} \u00d7 {setting.height}",
        "floating point": setting.dtype,
        "pictures": str(images.facts.images),
        "noise seed": str(images.spec.seed),
    }
