"""Leaderboard: one row per method and bits, with paired differences to the best at these bits."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..manifests import LeaderboardFacts, LeaderboardRow, LeaderboardSpec, MetricSummary
from ..methods.in_words import choices_in_words
from ..metrics.catalog import CATALOG
from ..metrics.scores import over_calibrations, paired_difference
from ..store import ArraySpec, Artifact, Draft
from ..types import Kind
from .images import Images
from .latents import Latents
from .metrics import Metrics
from .quant_state import QuantState
from .workspace import Blueprint, Workspace

ORDERED_BY = "psnr"
WEIGHT_BITS, ACTIVATION_BITS = "weights, by parameters", "activations, by layers"


class Leaderboard(Artifact[LeaderboardSpec, LeaderboardFacts]):
    """A stored leaderboard."""

    KIND = Kind.LEADERBOARD


def store_leaderboard(
    workspace: Workspace, spec: LeaderboardSpec, metrics: Mapping[str, Sequence[Metrics]]
) -> Leaderboard:
    """Store the leaderboard of some metrics artifacts: one for each calibration of a row, by row."""
    first = next(iter(metrics.values()))[0]
    names = first.spec.metrics
    parents = {}
    for row, calibrations in metrics.items():
        parents[row] = calibrations[0]
        parents |= {f"{row}, seed {seed}": other for seed, other in enumerate(calibrations[1:], 1)}

    def fill(draft: Draft) -> LeaderboardFacts:
        rows = _rows(workspace, metrics)
        means = np.empty((len(rows), len(names)))
        for i, row in enumerate(rows):
            values = [row.metrics[name].mean for name in names]
            means[i] = np.array(values, dtype=float)  # None becomes nan
        for unit in draft.missing():
            draft.write(unit, {"value": means})
        images = workspace.input(Images, first, "images")
        return LeaderboardFacts(
            setting=images.spec.setting,
            images=images.facts.images,
            metrics=names,
            standings=rows,
            floor=first.facts.floor,
            itself=first.facts.itself,
        )

    arrays = {"value": ArraySpec((len(metrics), len(names)), "float64", ("standing", "metric"), finite=False)}
    return workspace.produce(Leaderboard, Blueprint(spec, parents, arrays), fill)


def _rows(workspace: Workspace, metrics: Mapping[str, Sequence[Metrics]]) -> tuple[LeaderboardRow, ...]:
    rows = {name: _row(workspace, name, artifacts) for name, artifacts in metrics.items()}
    finished = []
    for name, row in rows.items():
        rivals = [other for other in rows if rows[other].bits == row.bits]
        best = min(rivals, key=lambda other: distance(rows[other]))
        paired = {}
        if name != best:
            of_each = [_paired_differences(*pair) for pair in zip(metrics[name], metrics[best], strict=True)]
            paired = _summaries(of_each)
        finished.append(row.model_copy(update={"beside": paired}))
    return tuple(finished)


def distance(row: LeaderboardRow) -> float:
    """Return how far a row is from the floating-point model; identical images are closest."""
    mean = row.metrics[ORDERED_BY].mean
    return -math.inf if mean is None else CATALOG[ORDERED_BY].distance(mean)


def _paired_differences(metrics: Metrics, best: Metrics) -> dict[str, MetricSummary]:
    """Return the differences to the best row, for each metric that has a value per image."""
    differences = {}
    for name in metrics.manifest.arrays:
        summary = paired_difference(metrics.read(name), best.read(name))
        if summary is not None:
            differences[name] = summary
    return differences


def _summaries(of_each: Sequence[Mapping[str, MetricSummary]]) -> dict[str, MetricSummary]:
    """Return the summaries of one calibration as they are, and those of several over all of them."""
    if len(of_each) == 1:
        return dict(of_each[0])
    by_name: dict[str, list[MetricSummary]] = {}
    for summaries in of_each:
        for name, summary in summaries.items():
            by_name.setdefault(name, []).append(summary)
    return {name: over_calibrations(each) for name, each in by_name.items()}


def _means(metrics: Sequence[Metrics]) -> dict[str, tuple[float | None, ...]] | None:
    """Return the mean of each metric by calibration; None for a single one."""
    if len(metrics) == 1:
        return None
    means = {}
    for name in metrics[0].spec.metrics:
        means[name] = tuple(artifact.facts.metrics[name].mean for artifact in metrics)
    return means


def _row(workspace: Workspace, name: str, metrics: Sequence[Metrics]) -> LeaderboardRow:
    first = metrics[0]
    state = workspace.input(QuantState, workspace.input(Images, first, "images"), "state")
    latents = workspace.input(Latents, state, "latents")
    cost = state.manifest.provenance
    return LeaderboardRow(
        method=name.removesuffix(f" {state.spec.bits}"),
        bits=state.spec.bits,
        metrics=_summaries([artifact.facts.metrics for artifact in metrics]),
        latents=latents.facts.latents,
        iterations=state.spec.iterations,
        forwards=state.facts.forwards,
        seconds=cost.seconds,
        peak_memory=cost.peak_memory,
        average_bits=state.facts.average_bits[WEIGHT_BITS],
        activation_bits=state.facts.average_bits[ACTIVATION_BITS],
        choices=tuple(choices_in_words(state.spec)),
        means=_means(metrics),
    )
