"""`report`: metrics artifacts and all they were made from, as one HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..artifacts.drift import Drift
from ..artifacts.images import Images
from ..artifacts.lineage import Lineage, read_lineage
from ..artifacts.metrics import Metrics
from ..artifacts.prompts import Prompts
from ..artifacts.quant_state import QuantState
from ..artifacts.workspace import Workspace
from ..errors import UsageProblem
from ..manifests.kinds import (
    DriftManifest,
    ImagesManifest,
    MetricsManifest,
    PromptsManifest,
    QuantStateManifest,
)
from ..options.requests import ReportRequest
from ..paths import HTML, atomic_write, check_output, check_overwrites
from ..report import page
from ..report.comparison import ActivationTables, ComparedModel, labelled
from ..report.content import Material, make_page
from ..report.picture_grid import PromptImages, select_prompts
from ..report.reproduce import PromptFileContent, prompt_file
from ..store import Artifact
from ..types import Kind


def run(request: ReportRequest, workspace: Workspace) -> Path:
    """Write the report of a request; return its path."""
    output = request.output
    check_output(output, "--output", workspace.store.url)
    check_overwrites(output, "--output", HTML, "an HTML page")
    material = read_material(workspace, request.names, request.pictures)
    atomic_write(output, page.render(make_page(material)))
    return output


def read_material(workspace: Workspace, names: Sequence[str], count: int) -> Material:
    """Read what a report of metrics artifacts shows, with the images of `count` prompts."""
    sources = [_sources(workspace, name) for name in names or (Kind.METRICS.value,)]
    lineage = read_lineage([artifact for source in sources for artifact in source.newest()], workspace.store)
    models = labelled([_model(workspace, source, lineage) for source in sources])
    workspace.announce({model.label: s.metrics for model, s in zip(models, sources, strict=True)})
    selection = select_prompts(models, count)
    return Material(
        models=models,
        lineage=lineage,
        selection=selection,
        images=_images(workspace, sources, selection.indices),
        prompt_files=_prompt_files(workspace, lineage),
    )


@dataclass(frozen=True)
class Sources:
    """The artifacts behind a metrics artifact."""

    metrics: Metrics
    images: Images
    reference: Images
    state: QuantState
    drift: Drift | None  # the newest measured on this state

    def newest(self) -> list[Artifact]:
        """Return the artifacts that no other of these was made from."""
        return [self.metrics, self.drift] if self.drift else [self.metrics]


def _sources(workspace: Workspace, name: str) -> Sources:
    """Follow a metrics artifact; raises UsageProblem for another kind, or images that are not quantized."""
    artifact = workspace.store.resolve(name)
    if artifact.kind is not Kind.METRICS:
        raise UsageProblem(
            f"{name}: is {artifact.kind}, expected metrics; run `sdquant evaluate` on images first"
        )
    metrics = Metrics.of(artifact)
    images = workspace.input(Images, metrics, "images")
    if "state" not in images.manifest.inputs:
        raise UsageProblem(
            f"{name}: measures floating-point images (images/{images.key}), expected those of a quantized "
            f"model; run `sdquant generate` without `--model fp`"
        )
    state = workspace.input(QuantState, images, "state")
    drifts = [a for a in workspace.store.dependents(state) if a.kind is Kind.DRIFT]
    return Sources(
        metrics=metrics,
        images=images,
        reference=workspace.input(Images, metrics, "reference"),
        state=state,
        drift=Drift.of(drifts[-1]) if drifts else None,
    )


def _model(workspace: Workspace, source: Sources, lineage: Lineage) -> ComparedModel:
    images = lineage.follow(source.images.ref, ImagesManifest)
    scores = {}
    for name, array in source.metrics.manifest.arrays.items():
        if array.shape == (images.facts.images,):
            scores[name] = source.metrics.read(name)
    return ComparedModel(
        metrics=lineage.follow(source.metrics.ref, MetricsManifest),
        images=images,
        state=lineage.follow(source.state.ref, QuantStateManifest),
        drift=lineage.follow(source.drift.ref, DriftManifest) if source.drift else None,
        shared=source.images.comparable() | {"reference": source.reference.key},
        scores=scores,
        activations=_activation_tables(workspace, source.state),
    )


def _activation_tables(workspace: Workspace, state: QuantState) -> ActivationTables:
    ref = state.manifest.inputs["time-table"]
    table = workspace.store.find(ref.kind, ref.key)
    return ActivationTables(
        scales=state.read("activation_step"),
        zero_points=state.read("activation_zero"),
        offsets=state.read("activation_step_offset"),
        timesteps=table.read("timestep") if table else None,
    )


def _images(
    workspace: Workspace, sources: Sequence[Sources], indices: Sequence[int]
) -> dict[int, PromptImages]:
    """Read the images of some prompts: the reference, and each model's."""
    prompts = workspace.input(Prompts, sources[0].images, "prompts").texts()
    images = {}
    for index in indices:
        reference = sources[0].reference.read("image", index, index + 1)[0]
        quantized = [source.images.read("image", index, index + 1)[0] for source in sources]
        images[index] = PromptImages(prompts[index], reference, tuple(quantized))
    return images


def _prompt_files(workspace: Workspace, lineage: Lineage) -> dict[str, PromptFileContent]:
    """Read all prompts, by the key of their artifact."""
    files = {}
    for manifest in lineage.manifests.values():
        if isinstance(manifest, PromptsManifest):
            texts = workspace.follow(Prompts, manifest.ref).texts()
            files[manifest.key] = prompt_file(manifest.facts.source, texts)
    return files
