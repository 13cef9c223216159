"""`leaderboard`: calibration methods on one ground: the same model, prompts, noise, bits and evaluation.

Each row runs the stages that it needs, in order, and is finished before the next begins; what is there is
not made again. A row that fails is told and does not keep the others from being made.
"""

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..artifacts.leaderboard import Leaderboard
from ..artifacts.settings import new_setting
from ..artifacts.workspace import Blueprint, Plan, Workspace, use_device
from ..calibration.recipe import Recipe
from ..calibration.recipes.published import METHODS
from ..calibration.resolve import reads_ranking, recipe_of
from ..errors import SdquantError, UsageProblem
from ..manifests import LeaderboardFacts, LeaderboardRow, LeaderboardSpec, MetricSummary
from ..metrics.scores import paired_difference
from ..options.requests import (
    CalibrateRequest,
    EvaluateRequest,
    GenerateRequest,
    LeaderboardRequest,
    SampleRequest,
    SensitivityRequest,
    SettingRequest,
)
from ..paths import HTML, atomic_write, check_output, check_overwrites
from ..prompts import read_prompts
from ..report import board
from ..report.leaderboard import distance, make_board
from ..store import Absent, ArraySpec, Artifact, Draft, Store
from . import calibrate, evaluate, generate, sample, sensitivity

ALL = "all"
RANKED_LATENTS = 256  # that a ranking is measured on
WEIGHT_BITS, ACTIVATION_BITS = "weights, by parameters", "activations, by layers"


@dataclass(frozen=True)
class Row:
    """A method at one number of bits: what is asked of each stage."""

    sample: SampleRequest
    sensitivity: SensitivityRequest | None  # None: the method has no use for a ranking
    calibrate: CalibrateRequest
    generate: GenerateRequest  # but for the state
    evaluate: EvaluateRequest  # but for the images

    @property
    def name(self) -> str:
        return f"{self.calibrate.method} {self.calibrate.bits}"

    @property
    def stages(self) -> list[str]:
        return [stage.name for stage in dataclasses.fields(self) if getattr(self, stage.name)]

    def made(self, workspace: Workspace) -> Iterator[Artifact]:
        """The artifact of each stage, the metrics last."""
        yield sample.run(self.sample, workspace)
        if self.sensitivity:
            yield sensitivity.run(self.sensitivity, workspace)
        state = calibrate.run(self.calibrate, workspace)
        yield state
        drawn = self.generate.model_copy(update={"state": f"{state.ref.kind}/{state.ref.key}"})
        images = generate.run(drawn, workspace)
        yield images
        measured = self.evaluate.model_copy(update={"images": f"{images.ref.kind}/{images.ref.key}"})
        yield evaluate.run(measured, workspace)


def plan(request: LeaderboardRequest, workspace: Workspace) -> Plan:
    """Return which stages of each row have something to make."""
    rows = _rows(request, workspace)
    return Plan("leaderboard", {row.name: _missing(row, workspace.read_only()) for row in rows})


def _missing(row: Row, workspace: Workspace) -> str:
    there = 0
    try:
        for _ in row.made(workspace):
            there += 1
    except Absent:
        return f"missing: {', '.join(row.stages[there:])}"
    return "up to date"


def run(request: LeaderboardRequest, workspace: Workspace) -> Leaderboard:
    """Make what is missing of every row, and the pages."""
    rows = _rows(request, workspace)
    _check_files(request, workspace)
    workspace = workspace.pinned()
    metrics: dict[str, Artifact] = {}
    failed: dict[str, SdquantError] = {}
    for row in rows:
        workspace.events.note(f"== {row.name}")
        try:
            *_, metrics[row.name] = row.made(workspace)
        except SdquantError as error:
            workspace.events.warn(f"{row.name} failed: {error}")
            failed[row.name] = error
    if not metrics:
        raise next(iter(failed.values()))
    spec = LeaderboardSpec(
        rows=tuple(row.name for row in rows), failed={name: str(error) for name, error in failed.items()}
    )
    artifact = _stored(spec, metrics, workspace)
    _write_pages(artifact, request, workspace.store)
    return artifact


def conclude(artifact: Artifact, request: LeaderboardRequest) -> None:  # noqa: ARG001
    """Raise SdquantError if a row has failed."""
    if failed := artifact.spec.failed:
        told = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise SdquantError(f"{len(failed)} of {len(artifact.spec.rows)} rows failed: {told}")


# --------------------------------------------------------------------------------------- rows


def _rows(request: LeaderboardRequest, workspace: Workspace) -> list[Row]:
    """By bits, then by method, each as often as once; raises UsageProblem for what no row can do."""
    recipes = _recipes(request.methods)
    setting = {name: getattr(request, name) for name in SettingRequest.model_fields}
    steps = new_setting(request, workspace)[1].steps
    return [
        _row(request, recipe, bits, setting, steps)
        for bits in dict.fromkeys(request.bits)
        for recipe in recipes
    ]


def _recipes(names: tuple[str, ...]) -> list[Recipe]:
    chosen = list(METHODS) if names == (ALL,) else list(dict.fromkeys(names))
    if unknown := [name for name in chosen if name not in METHODS]:
        raise UsageProblem(f"--methods {', '.join(unknown)}: expected {ALL} or some of {', '.join(METHODS)}")
    return [METHODS[name] for name in chosen]


def _row(
    request: LeaderboardRequest, recipe: Recipe, bits: str, setting: Mapping[str, object], steps: int
) -> Row:
    data = dataclasses.asdict(recipe.data)
    data |= {"limit": data.pop("prompts"), "per_prompt": min(recipe.data.per_prompt, steps)}
    device = request.device
    calibration = CalibrateRequest(
        method=recipe.name,
        bits=bits,
        mixed=recipe.mixed,
        iterations=request.iterations if recipe.trains else None,
        forwards=request.forwards if recipe.trains else None,
        device=device,
    )
    recipe_of(calibration)  # raises for what the row would stumble over
    ranking = SensitivityRequest(bits=bits, limit=RANKED_LATENTS, device=device)
    return Row(
        sample=SampleRequest(
            prompts=request.prompts, column=request.column, shuffle=request.shuffle, **data, **setting
        ),
        sensitivity=ranking if reads_ranking(calibration, recipe) else None,
        calibrate=calibration,
        generate=GenerateRequest(
            prompts=request.test_prompts,
            column=request.test_column,
            shuffle=request.shuffle,
            limit=request.limit,
            seed=request.seed,
            device=device,
        ),
        evaluate=EvaluateRequest(weights_dir=request.weights_dir, device=device),
    )


def _check_files(request: LeaderboardRequest, workspace: Workspace) -> None:
    """Raise what the last row or page would stumble over, before the first is made; tell of few prompts."""
    use_device(request.device)
    model, _ = new_setting(request, workspace)
    read_prompts(request.prompts, column=request.column)
    if request.test_prompts is None and request.test_column is not None:
        raise UsageProblem(f"--test-column {request.test_column}: has a meaning with --test-prompts alone")
    drawn = request.test_prompts or model.prompts_file
    if drawn is None:
        raise UsageProblem(f"--test-prompts: {model.source} brings no prompts of its own, name a file")
    count = len(read_prompts(drawn, column=request.test_column, flag="--test-prompts").prompts)
    if count < request.limit:
        workspace.events.note(
            f"--limit {request.limit}: {drawn} has {count} prompts, and each row draws these"
        )
    check_output(request.output, "--output", workspace.store.url)
    check_overwrites(request.output, "--output", HTML, "an HTML page")
    if request.markdown is not None:
        check_output(request.markdown, "--markdown", workspace.store.url)
        check_overwrites(request.markdown, "--markdown", board.TITLE.encode(), "a leaderboard's table")


# ------------------------------------------------------------------------------- the artifact


def _stored(spec: LeaderboardSpec, metrics: Mapping[str, Artifact], workspace: Workspace) -> Leaderboard:
    """The leaderboard of these metrics, by row."""
    workspace.announce(metrics)
    store, first = workspace.store, next(iter(metrics.values()))
    names = first.spec.metrics
    arrays = {"value": ArraySpec((len(metrics), len(names)), "float64", ("standing", "metric"), finite=False)}

    def fill(draft: Draft) -> LeaderboardFacts:
        standings = _standings(metrics, store)
        means = [[standing.metrics[name].mean for name in names] for standing in standings]
        for unit in draft.missing():
            draft.write(unit, {"value": np.array(means, dtype=float)})  # None becomes nan
        images = store.follow(first.manifest.inputs["images"])
        return LeaderboardFacts(
            setting=images.spec.setting,
            images=images.facts.images,
            metrics=names,
            standings=standings,
            floor=first.facts.floor,
            itself=first.facts.itself,
        )

    return workspace.produce(Leaderboard, Blueprint(spec, metrics, arrays), fill)


def _standings(metrics: Mapping[str, Artifact], store: Store) -> tuple[LeaderboardRow, ...]:
    """Of every row, beside the closest one at its bits."""
    alone = {row: _standing(artifact, store) for row, artifact in metrics.items()}
    found = []
    for row, standing in alone.items():
        rivals = [other for other in alone if alone[other].bits == standing.bits]
        first = min(rivals, key=lambda other: distance(alone[other]))
        beside = {} if first == row else _differences(metrics[row], metrics[first])
        found.append(standing.model_copy(update={"beside": beside}))
    return tuple(found)


def _differences(own: Artifact, other: Artifact) -> dict[str, MetricSummary]:
    """Of each metric that pictures have."""
    found = {name: paired_difference(own.read(name), other.read(name)) for name in own.manifest.arrays}
    return {name: less for name, less in found.items() if less is not None}


def _standing(metrics: Artifact, store: Store) -> LeaderboardRow:
    images = store.follow(metrics.manifest.inputs["images"])
    state = store.follow(images.manifest.inputs["state"])
    took = state.manifest.provenance
    return LeaderboardRow(
        method=state.spec.method,
        bits=state.spec.bits,
        metrics=metrics.facts.metrics,
        latents=store.follow(state.manifest.inputs["latents"]).facts.latents,
        iterations=state.spec.iterations,
        forwards=state.facts.forwards,
        seconds=took.seconds,
        peak_memory=took.peak_memory,
        average_bits=state.facts.average_bits[WEIGHT_BITS],
        activation_bits=state.facts.average_bits[ACTIVATION_BITS],
    )


# ---------------------------------------------------------------------------------- the pages


def _write_pages(artifact: Artifact, request: LeaderboardRequest, store: Store) -> None:
    shown = make_board(artifact, store, request.pictures, _command(request))
    atomic_write(request.output, board.html(shown))
    if request.markdown:
        atomic_write(request.markdown, board.markdown(shown))


def _command(request: LeaderboardRequest) -> str:
    """The command line of a request, without what does not change its numbers."""
    words = ["sdquant", "leaderboard"]
    for name, field in LeaderboardRequest.model_fields.items():
        value = getattr(request, name)
        if name in ("output", "markdown", "pictures", "device", "weights_dir") or value == field.default:
            continue
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)
