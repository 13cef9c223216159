"""The leaderboard's content: the table of all methods, the images below it, and its command line."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..artifacts.leaderboard import ORDERED_BY, distance
from ..manifests import LeaderboardFacts, LeaderboardRow, LeaderboardSpec, MetricSummary
from ..methods.published import METHODS
from ..metrics.catalog import CATALOG
from ..options.option import flags_of
from ..options.requests import LeaderboardRequest
from . import numbers, pictures
from .board import Board, Column, PictureStrip, Table, TableRow
from .page import Cell

FORMULAS = {  # the formulas that are shown, in this order
    "fid": "FID-to-FP",
    "feature_distance": "feature distance",
    "lpips": "LPIPS",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "clip_score_difference": "CLIP score difference",
}
MEDIANS = ("feature_distance", "psnr")  # formulas whose median is shown too
COSTS = (
    "calibration, s",
    "peak memory, GiB",
    "UNet forwards",
    "iterations",
    "latents",
    "weight bits",
    "activation bits",
)
DIFFERS = "differs in"
PICTURE_BYTES = 8_000_000  # of data URIs
FLOATING_POINT = "floating point"
NOT_IN_COMMAND = ("output", "markdown", "pictures", "device", "weights_dir")  # they change no number


# ---------------------------------------------------------------------------------- the table


def table(spec: LeaderboardSpec, facts: LeaderboardFacts) -> Table:
    """Return all rows: within equal bits the closest to FP first, those without numbers last."""
    metrics = _shown_metrics(facts.metrics)
    columns: list[Column] = []
    for metric in metrics:
        columns += _columns(metric)
    columns += map(Column, (*COSTS, DIFFERS))
    common = common_choices(facts)
    lines = []
    for row in ordered_rows(spec, facts):
        cells = _metric_cells(metrics, row.metrics, row.beside) + _cost_cells(row)
        cells.append(Cell("; ".join(choice for choice in row.choices if choice not in common)))
        lines.append(TableRow(row.method, row.bits, tuple(cells)))
    baselines = []
    for name, summaries in (("other seed", facts.floor), ("self-baseline", facts.itself)):
        if summaries:
            cells = _metric_cells(metrics, summaries, {}) + [Cell("")] * (len(COSTS) + 1)
            baselines.append(TableRow(f"{FLOATING_POINT}, {name}", "", tuple(cells)))
    missing = {}
    for word, reasons in (("failed", spec.failed), ("not run", spec.refused)):
        for name, reason in reasons.items():
            missing[name] = f"{word}: {reason}"
    return Table(tuple(columns), tuple(lines), missing, tuple(baselines))


def common_choices(facts: LeaderboardFacts) -> list[str]:
    """Return the choices that all rows share, in their order."""
    first, *others = facts.standings
    common = list(first.choices)
    for row in others:
        common = [choice for choice in common if choice in row.choices]
    return common


def _shown_metrics(names: Sequence[str]) -> list[str]:
    """Return the metrics that have a column, in the order of `FORMULAS`."""
    shown = []
    for formula in FORMULAS:
        for name in names:
            if CATALOG[name].formula == formula:
                shown.append(name)
    return shown


def _columns(metric: str) -> list[Column]:
    formula, network = CATALOG[metric].formula, CATALOG[metric].network
    title = FORMULAS[formula] + (f" ({network})" if network else "")
    unit, better = numbers.unit(metric), numbers.better(metric)
    columns = [Column(f"{title}, {unit}" if unit else title, better)]
    if formula in MEDIANS:
        columns.append(Column(f"{FORMULAS[formula]}, median", better))
    if metric == ORDERED_BY:
        columns.append(Column(f"{title}, difference to best"))
    return columns


def _metric_cells(
    metrics: Sequence[str], summaries: Mapping[str, MetricSummary], paired: Mapping[str, MetricSummary]
) -> list[Cell]:
    """Return a row's cells; `paired` are its differences to the best row, empty for the best one."""
    cells = []
    for metric in metrics:
        summary = summaries[metric]
        cells.append(Cell(numbers.mean(summary), numbers.interval(summary)))
        if CATALOG[metric].formula in MEDIANS:
            cells.append(Cell(numbers.median(summary)))
        if metric == ORDERED_BY:
            cells.append(Cell(_paired_difference(paired.get(metric))))
    return cells


def _paired_difference(summary: MetricSummary | None) -> str:
    if summary is None or summary.mean is None or summary.ci95 is None:
        return ""
    low, high = summary.ci95
    return f"{numbers.fixed(summary.mean, 2)} [{numbers.fixed(low, 2)}, {numbers.fixed(high, 2)}]"


def _cost_cells(row: LeaderboardRow) -> list[Cell]:
    """Return what a calibration took, in the order of `COSTS`."""
    memory = None if row.peak_memory is None else row.peak_memory / 2**30
    return [
        Cell(numbers.fixed(row.seconds, 0)),
        Cell(numbers.fixed(memory, 2)),
        Cell(numbers.fixed(row.forwards, 0)),
        Cell(numbers.fixed(row.iterations, 0)),
        Cell(numbers.fixed(row.latents, 0)),
        Cell(numbers.fixed(row.average_bits, 2)),
        Cell(numbers.fixed(row.activation_bits, 2)),
    ]


def ordered_rows(spec: LeaderboardSpec, facts: LeaderboardFacts) -> list[LeaderboardRow]:
    """Return the rows by bits in the order asked for; within equal bits the closest images first."""
    widths = []
    for name in spec.rows:
        widths.append(name.rpartition(" ")[2])
    return sorted(facts.standings, key=lambda row: (widths.index(row.bits), distance(row)))


# ---------------------------------------------------------------------------------- the board


@dataclass(frozen=True)
class RowImages:
    """One row's images of the prompts that the page shows."""

    name: str  # method and bits
    images: np.ndarray  # (count,H,W,3) uint8
    psnr: np.ndarray  # (count)


@dataclass(frozen=True)
class BoardImages:
    """All images of the prompts that the page shows."""

    setting: dict[str, str]  # how they were generated, in words
    prompts: Sequence[str]  # (count)
    reference: np.ndarray  # (count,H,W,3) uint8: the floating-point model's
    rows: Sequence[RowImages]  # in the order of the table


def make_board(spec: LeaderboardSpec, facts: LeaderboardFacts, shown: BoardImages, command: str) -> Board:
    """Return all that the pages show."""
    strips, encoding = _strips(shown)
    methods = {}
    for row in facts.standings:
        name = row.method.split()[0]
        if name in METHODS:
            methods[name] = METHODS[name].cites
    setting = dict(shown.setting)
    if common := common_choices(facts):
        setting["all rows"] = "; ".join(common)
    return Board(
        command=command,
        setting=setting,
        images=facts.images,
        calibrations=spec.calibrations or 1,
        table=table(spec, facts),
        methods=methods,
        strips=strips,
        encoding=str(encoding),
        width=facts.setting.width,
        height=facts.setting.height,
    )


def _strips(shown: BoardImages) -> tuple[tuple[PictureStrip, ...], pictures.Encoding]:
    """Return the images of each prompt: the floating-point model's, then each row's."""
    names = [FLOATING_POINT, *(row.name for row in shown.rows)]
    drawn: list[np.ndarray] = []
    psnr: list[float] = []
    for i in range(len(shown.prompts)):
        drawn.append(shown.reference[i])
        for row in shown.rows:
            drawn.append(row.images[i])
            psnr.append(float(row.psnr[i]))
    uris, encoding = pictures.encode(drawn, PICTURE_BYTES)
    places = numbers.decimals(psnr)
    strips = []
    for i, prompt in enumerate(shown.prompts):
        scores = [f"{numbers.fixed(float(row.psnr[i]), places)} dB" for row in shown.rows]
        images = uris[i * len(names) : (i + 1) * len(names)]
        strips.append(PictureStrip(prompt, tuple(names), tuple(images), ("", *scores)))
    return tuple(strips), encoding


def command_line(request: LeaderboardRequest) -> str:
    """Return the command line of a request, without what does not change its numbers."""
    words = ["sdquant", "leaderboard"]
    for flag in flags_of(LeaderboardRequest.model_fields):
        value = getattr(request, flag.name)
        if flag.name not in NOT_IN_COMMAND and value != flag.default:
            words += flag.words(",".join(value) if isinstance(value, tuple) else value)
    return shlex.join(words)
