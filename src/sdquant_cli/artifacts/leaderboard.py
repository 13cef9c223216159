"""Leaderboard: one row per method and bits, with paired differences to the best at these bits."""

import math
from collections.abc import Mapping

import numpy as np

from ..calibration.resolve import choices_in_words
from ..manifests import LeaderboardFacts, LeaderboardRow, LeaderboardSpec, MetricSummary
from ..metrics.catalog import CATALOG
from ..metrics.scores import paired_difference
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
    workspace: Workspace, spec: LeaderboardSpec, metrics: Mapping[str, Metrics]
) -> Leaderboard:
    """Store the leaderboard of some metrics artifacts, which are named by their row."""
    first = next(iter(metrics.values()))
    names = first.spec.metrics

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
    return workspace.produce(Leaderboard, Blueprint(spec, metrics, arrays), fill)


def _rows(workspace: Workspace, metrics: Mapping[str, Metrics]) -> tuple[LeaderboardRow, ...]:
    rows = {name: _row(workspace, name, artifact) for name, artifact in metrics.items()}
    finished = []
    for name, row in rows.items():
        rivals = [other for other in rows if rows[other].bits == row.bits]
        best = min(rivals, key=lambda other: distance(rows[other]))
        paired = {} if name == best else _paired_differences(metrics[name], metrics[best])
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


def _row(workspace: Workspace, name: str, metrics: Metrics) -> LeaderboardRow:
    state = workspace.input(QuantState, workspace.input(Images, metrics, "images"), "state")
    latents = workspace.input(Latents, state, "latents")
    cost = state.manifest.provenance
    return LeaderboardRow(
        method=name.removesuffix(f" {state.spec.bits}"),
        bits=state.spec.bits,
        metrics=metrics.facts.metrics,
        latents=latents.facts.latents,
        iterations=state.spec.iterations,
        forwards=state.facts.forwards,
        seconds=cost.seconds,
        peak_memory=cost.peak_memory,
        average_bits=state.facts.average_bits[WEIGHT_BITS],
        activation_bits=state.facts.average_bits[ACTIVATION_BITS],
        choices=tuple(choices_in_words(state.spec)),
    )
