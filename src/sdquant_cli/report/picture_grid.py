"""The images of a page: which prompts are shown, their cards, and the caption that says so."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from ..metrics.catalog import CATALOG
from . import numbers, page, pictures

PICTURE_BYTES = 8_000_000  # of data URIs: the rest of the 10 MB is for charts and prompts
SORTED_BY = ("psnr", "feature_distance")  # the first of these formulas that was measured chooses the worst


class ScoredImages(Protocol):
    """Images that were measured against the reference: a quantized model's, or a folder's."""

    @property
    def count(self) -> int:
        """The number of images."""

    @property
    def scores(self) -> Mapping[str, np.ndarray]:
        """By metric the value of each image (N)."""


@dataclass(frozen=True)
class Selection:
    """The prompts that a page shows."""

    worst: tuple[int, ...]  # by the metric `sort_by`, worst first
    others: tuple[int, ...]  # the first of the rest, in order
    sort_by: str  # a metric; "" if none that is comparable was measured
    images: int  # how many there are

    @property
    def indices(self) -> tuple[int, ...]:
        """The selected prompts in the order of their cards."""
        return self.worst + self.others


@dataclass(frozen=True)
class PromptImages:
    """The images of one prompt (H,W,3) uint8."""

    prompt: str
    reference: np.ndarray
    quantized: tuple[np.ndarray, ...]  # one per model


# ---------------------------------------------------------------------------------- selection


def select_prompts(models: Sequence[ScoredImages], count: int) -> Selection:
    """Return `count` prompts: half are the worst by one metric, half the first of the others."""
    images = models[0].count
    sort_by = _sorting_metric(_paired_metrics(models))
    worst = _worst_first(models, sort_by)[: count // 2] if sort_by else []
    rest = [index for index in range(images) if index not in worst]
    return Selection(tuple(worst), tuple(rest[: count - len(worst)]), sort_by, images)


def _paired_metrics(models: Sequence[ScoredImages]) -> list[str]:
    """Return the metrics that have a value for each image."""
    names: dict[str, None] = {}
    for model in models:
        names |= dict.fromkeys(model.scores)
    return list(names)


def _scores_of(model: ScoredImages, metric: str) -> np.ndarray:
    """Return a metric's value for each image (N); nan if this model has none."""
    return model.scores[metric] if metric in model.scores else np.full(model.count, np.nan)


def _sorting_metric(names: Sequence[str]) -> str:
    for formula in SORTED_BY:
        for name in names:
            if CATALOG[name].formula == formula:
                return name
    return ""


def _worst_first(models: Sequence[ScoredImages], metric: str) -> list[int]:
    """Return the images by the worst model's distance, without those identical in all models."""
    distances: dict[int, float] = {}
    for index in range(models[0].count):
        distance = _distance(models, metric, index)
        if distance is not None:
            distances[index] = distance
    return sorted(distances, key=lambda index: -distances[index])


def _distance(models: Sequence[ScoredImages], metric: str, index: int) -> float | None:
    """Return an image's distance in the model where it is largest; None if it is identical in all."""
    largest = None
    for model in models:
        value = float(_scores_of(model, metric)[index])
        distance = None if math.isnan(value) else numbers.distance(metric, value)
        if distance is not None and (largest is None or distance > largest):
            largest = distance
    return largest


# ---------------------------------------------------------------------------------- the cards


def picture_grid(
    models: Sequence[ScoredImages], selection: Selection, images: Mapping[int, PromptImages]
) -> page.PictureGrid:
    """Return the cards of the selected prompts with what is said of them."""
    metrics = _paired_metrics(models)
    uris, encoding = _encoded(selection, images)
    height, width, _ = images[selection.indices[0]].reference.shape
    return page.PictureGrid(
        sentence=caption(selection, encoding),
        metrics=_short_names(metrics),
        sort_by=selection.sort_by,
        width=width,
        height=height,
        cards=cards(models, selection, images, uris),
    )


def cards(
    models: Sequence[ScoredImages],
    selection: Selection,
    images: Mapping[int, PromptImages],
    uris: Sequence[str],
) -> tuple[page.Card, ...]:
    """Return one card per selected prompt; `uris` are the images and differences of all, in order."""
    metrics = _paired_metrics(models)
    rows = [_score_texts(models, metric) for metric in metrics]
    shown, width = 1 + len(models), 1 + 2 * len(models)  # the reference, the models, their differences
    result = []
    for i, index in enumerate(selection.indices):
        sources = uris[i * width : (i + 1) * width]
        result.append(
            page.Card(
                index=index,
                prompt=images[index].prompt,
                pictures=tuple(sources[:shown]),
                differences=tuple(sources[shown:]),
                scores=tuple(row[index] for row in rows),
                distance={metric: _distance(models, metric, index) for metric in metrics},
            )
        )
    return tuple(result)


def caption(selection: Selection, encoding: pictures.Encoding) -> str:
    """Return the sentences that say which images are shown and how they are stored."""
    shown = len(selection.indices)
    if shown == selection.images:
        text = f"All {selection.images} images"
    else:
        text = f"{shown} of {selection.images} images"
        if selection.worst:
            text += f": the {len(selection.worst)} worst by {selection.sort_by}"
            text += f" and the first {len(selection.others)} of the others"
    return f"{text}. Embedded as {encoding}."


def _encoded(selection: Selection, images: Mapping[int, PromptImages]) -> tuple[list[str], pictures.Encoding]:
    """Return data URIs for each prompt: the reference, each model's image, each model's difference."""
    drawn: list[np.ndarray] = []
    for index in selection.indices:
        one = images[index]
        drawn += [one.reference, *one.quantized]
        for image in one.quantized:
            drawn.append(pictures.difference(image, one.reference))
    return pictures.encode(drawn, PICTURE_BYTES)


def _score_texts(models: Sequence[ScoredImages], metric: str) -> list[tuple[str, ...]]:
    """Return a metric's values as text, for each image one text per model."""
    values = np.stack([_scores_of(model, metric) for model in models], axis=1)  # (N, models)
    places = numbers.decimals(values.flatten().tolist())
    fixed = partial(numbers.fixed, places=places)
    return [tuple(map(fixed, row)) for row in values.tolist()]


def _short_names(metrics: Sequence[str]) -> dict[str, str]:
    """Return each metric with its formula's name, or its full name where two share a formula."""
    formulas = [CATALOG[metric].formula for metric in metrics]
    names = {}
    for metric, formula in zip(metrics, formulas, strict=True):
        names[metric] = formula if formulas.count(formula) == 1 else metric
    return names
