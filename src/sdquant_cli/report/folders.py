"""The page of two folders of pictures: numbers and pictures as a report has them, without a model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..manifests import MetricsFacts
from . import page
from .headline import headline, skipped
from .picture_grid import PromptImages, Selection, picture_grid, select_prompts

PICTURES = 24  # as many as `report` shows by default


@dataclass(frozen=True)
class ScoredFolder:
    """The pictures of a folder as they were measured."""

    name: str
    count: int
    scores: Mapping[str, np.ndarray]  # by metric the value of each picture (N)


@dataclass(frozen=True)
class FolderPage:
    """All that the page shows."""

    title: str
    setting: dict[str, str]
    models: tuple[page.ModelColumn, ...]  # one: the folder
    headline: tuple[page.MetricRow, ...]
    skipped: dict[str, list[str]]  # reason -> metrics
    grid: page.PictureGrid


@dataclass(frozen=True)
class FolderMaterial:
    """What the page is made from."""

    folder: ScoredFolder
    reference: str  # name of the folder
    facts: MetricsFacts
    selection: Selection
    images: Mapping[int, PromptImages]  # of the selected pictures


def selection(folder: ScoredFolder) -> Selection:
    """Return which pictures the page shows: half are the worst, half the first of the others."""
    return select_prompts([folder], PICTURES)


def make_page(material: FolderMaterial) -> FolderPage:
    """Return all that the page shows."""
    folder, reference = material.folder, material.reference
    grid = picture_grid([folder], material.selection, material.images)
    return FolderPage(
        title=f"{folder.name} compared with {reference}",
        setting={"images": str(folder.count), "size": f"{grid.width} \u00d7 {grid.height}"},
        models=(page.ModelColumn(label=folder.name, execution="", facts={}),),
        headline=headline([material.facts]),
        skipped=skipped([material.facts]),
        grid=replace(grid, reference=reference, order="order of the names"),
    )


def render(content: FolderPage) -> str:
    """Return the page as one self-contained HTML document."""
    style, script = page.package_text("page.css"), page.package_text("page.js")
    return page.document("folders.html.j2", page=content, style=style, script=script)
