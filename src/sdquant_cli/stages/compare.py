"""`evaluate --images FOLDER --against FOLDER`: two folders of pictures, whoever drew them. Needs no store.

The metrics are those of `evaluate` on stored images, by the same functions; there is no other seed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..artifacts.workspace import Plan, use_device
from ..errors import UsageProblem
from ..events import Events
from ..manifests import MetricsFacts
from ..metrics.choice import Chosen, choose, required_metrics
from ..metrics.measures import Measures, Networks
from ..metrics.weights import WEIGHT_FILES, Weights
from ..options.requests import EvaluateRequest
from ..paths import HTML, atomic_write, check_output, check_overwrites
from ..pictures import PictureFolder, check_pictures, open_folder, paired
from ..prompts import read_prompts
from ..report import folders
from ..report.picture_grid import PromptImages
from ..types import Kind
from . import evaluate


@dataclass(frozen=True)
class Comparison:
    """Metrics of a folder of pictures against another one."""

    images: PictureFolder
    reference: PictureFolder
    prompts: tuple[str, ...]  # () if there are none
    facts: MetricsFacts
    columns: dict[str, np.ndarray]  # by metric: a value per picture (N)
    kind: Kind = Kind.METRICS

    @property
    def name(self) -> str:
        """Both folders."""
        return f"{self.images.folder} against {self.reference.folder}"


def plan(request: EvaluateRequest) -> Plan:
    """Return what `run` would do."""
    images, _ = _folders(request)
    prompts = _prompts(request, images)
    chosen = _choose(request, Weights(request.weights_dir), prompts)
    numbers = {"images": images.count, "metrics": len(chosen.names), "skipped": len(chosen.skipped)}
    return Plan("evaluate", dict(numbers))


def run(request: EvaluateRequest, events: Events) -> Comparison:
    """Compare two folders of pictures; write the page that the request asks for."""
    _check_files(request)
    device = use_device(request.device)
    images, reference = _folders(request)
    prompts = _prompts(request, images)
    weights = Weights(request.weights_dir)
    if request.download:
        weights.download(WEIGHT_FILES, events)
    chosen = _choose(request, weights, prompts)
    _note_order(images, reference, events)
    check_pictures(images, reference, events)
    networks = Networks(weights, device, evaluate.EMBEDDED_CLIP)

    def features(pictures: PictureFolder, network: str) -> np.ndarray:
        with events.task(f"features ({network})", pictures.count, "image") as task:
            return networks.features(network, pictures, range(pictures.count), task)

    measured = Measures(chosen, networks, features, prompts, events).measure(images, reference)
    made = Comparison(images, reference, prompts, measured.facts, measured.columns)
    if request.output is not None:
        atomic_write(request.output, _page(made))
        events.note(f"{request.output} ({request.output.stat().st_size / 1e6:.1f} MB)")
    return made


def _check_files(request: EvaluateRequest) -> None:
    """Raise UsageProblem for what folders do not take, and a file that cannot be written at the end."""
    if request.drift:
        raise UsageProblem("--drift: needs stored images, which name the models; folders of images have none")
    if request.column is not None and request.prompts is None:
        raise UsageProblem(f"--column {request.column}: requires --prompts")
    if request.summary is not None:
        check_output(request.summary, "--summary")
    if request.output is not None:
        check_output(request.output, "--output")
        check_overwrites(request.output, "--output", HTML, "an HTML page")


def _folders(request: EvaluateRequest) -> tuple[PictureFolder, PictureFolder]:
    """List both folders, with pairs at the same place."""
    assert request.images is not None
    images = open_folder(Path(request.images), "--images")
    return paired(images, open_folder(Path(request.against), "--against"))


def _prompts(request: EvaluateRequest, images: PictureFolder) -> tuple[str, ...]:
    """Return the prompt of each picture, () without --prompts."""
    if request.prompts is None:
        return ()
    file = read_prompts(request.prompts, column=request.column)
    if len(file.prompts) != images.count:
        blank = f" beside {file.blank} blank ones" if file.blank else ""
        raise UsageProblem(
            f"--prompts {request.prompts}: holds {len(file.prompts)} prompts{blank}, expected "
            f"{images.count}, one for each picture of {images.name}"
        )
    return file.prompts


def _choose(request: EvaluateRequest, weights: Weights, prompts: tuple[str, ...]) -> Chosen:
    required = required_metrics(request.gate, request.require)
    return choose(required, weights, prompts=bool(prompts))


def _note_order(images: PictureFolder, reference: PictureFolder, events: Events) -> None:
    """Say which pictures are compared where their names do not."""
    ours, theirs = images.files[0], reference.files[0]
    if ours.stem != theirs.stem:
        events.note(f"no name is in both folders: compared in order, {ours.name} with {theirs.name} first")


def _page(made: Comparison) -> str:
    """Return the HTML page of a comparison."""
    titles = made.prompts or tuple(file.stem for file in made.images.files)
    folder = folders.ScoredFolder(str(made.images.folder), made.images.count, made.columns)
    selection = folders.selection(folder)
    images = {}
    for index in selection.indices:
        ours, theirs = made.images.picture(index), made.reference.picture(index)
        images[index] = PromptImages(titles[index], theirs, (ours,))
    reference = str(made.reference.folder)
    material = folders.FolderMaterial(folder, reference, made.facts, selection, images)
    return folders.render(folders.make_page(material))


def conclude(made: Comparison, request: EvaluateRequest) -> None:
    """Write the Markdown summary and check the gates; raises GateFailed with those that are not met."""
    evaluate.judge(made.facts, f"Distance between pictures ({made.name})", request)


def document(made: Comparison) -> dict[str, object]:
    """Return what `--json` prints: as for stored images, with the names of files."""
    rows = evaluate.rows(made.columns)
    for row, ours, theirs in zip(rows, made.images.files, made.reference.files, strict=True):
        row |= {"image": ours.name, "reference": theirs.name}
    return {
        "format": 1,
        "artifact": None,
        "inputs": {"images": str(made.images.folder), "reference": str(made.reference.folder)},
        **made.facts.model_dump(mode="json"),
        "images": rows,
    }
