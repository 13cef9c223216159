"""A leaderboard artifact as a table, and as the page with its pictures."""

import math
from collections.abc import Mapping

from ..artifacts.prompts import Prompts
from ..calibration.recipes.published import METHODS
from ..manifests import LeaderboardFacts, LeaderboardRow, MetricSummary
from ..metrics.catalog import CATALOG
from ..store import Artifact, Store
from . import markdown, numbers, pictures
from .board import Board, Column, PictureStrip, Table, TableRow
from .comparison import setting_facts
from .page import Cell

FORMULAS = {  # those shown, in this order
    "fid": "FID-to-FP",
    "feature_distance": "feature distance",
    "lpips": "LPIPS",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "clip_score_difference": "CLIP score difference",
}
MEDIANS = ("feature_distance", "psnr")  # formulas that are shown by their median, too
ORDERED_BY = "psnr"
COST = (
    "calibration, s",
    "peak memory, GiB",
    "UNet forwards",
    "iterations",
    "latents",
    "weight bits",
    "activation bits",
)
PICTURE_BYTES = 8_000_000  # of data URIs


def table(artifact: Artifact) -> Table:
    """All rows: within equal bits the closest first, those that failed last."""
    facts: LeaderboardFacts = artifact.facts
    shown = [name for formula in FORMULAS for name in facts.metrics if CATALOG[name].formula == formula]

    def cells(found: Mapping[str, MetricSummary], beside: Mapping[str, MetricSummary]) -> list[Cell]:
        return [cell for name in shown for cell in _cells(name, found[name], beside.get(name))]

    lines = [TableRow(s.method, s.bits, (*cells(s.metrics, s.beside), *_cost(s))) for s in _ordered(artifact)]
    blank = [Cell("") for _ in COST]
    ends = {"floating point, other noise": facts.floor, "floating point, itself": facts.itself}
    return Table(
        columns=(*(column for name in shown for column in _columns(name)), *map(Column, COST)),
        lines=tuple(lines),
        failed=artifact.spec.failed,
        ends=tuple(TableRow(name, "", (*cells(found, {}), *blank)) for name, found in ends.items() if found),
    )


def _cells(name: str, summary: MetricSummary, beside: MetricSummary | None) -> list[Cell]:
    cells = [Cell(markdown.number(summary), markdown.interval(summary))]
    if numbers.base(name) in MEDIANS:
        cells.append(Cell(markdown.median(summary)))
    if name == ORDERED_BY:
        cells.append(Cell(_difference(beside)))
    return cells


def _difference(summary: MetricSummary | None) -> str:
    """Mean and 95% interval; nothing for the row that others stand beside."""
    if summary is None or summary.ci95 is None:
        return ""
    mean, low, high = (numbers.fixed(value, 2) for value in (summary.mean, *summary.ci95))
    return f"{mean} [{low}, {high}]"


def _columns(name: str) -> list[Column]:
    network = name.partition("[")[2].removesuffix("]")
    title = FORMULAS[numbers.base(name)] + (f" ({network})" if network else "")
    unit = numbers.unit(name)
    better, median = numbers.better(name), f"{FORMULAS[numbers.base(name)]}, median"
    columns = [Column(f"{title}, {unit}" if unit else title, better)]
    if numbers.base(name) in MEDIANS:
        columns.append(Column(median, better))
    if name == ORDERED_BY:
        columns.append(Column(f"{title} beside the first"))
    return columns


def _ordered(artifact: Artifact) -> list[LeaderboardRow]:
    """The bits as they were asked for; within them, the closest pictures first."""
    widths = list(dict.fromkeys(row.rpartition(" ")[2] for row in artifact.spec.rows))

    return sorted(artifact.facts.standings, key=lambda s: (widths.index(s.bits), distance(s)))


def distance(standing: LeaderboardRow) -> float:
    """How far a row is from the floating-point model; that of identical pictures is the closest."""
    mean = standing.metrics[ORDERED_BY].mean
    return -math.inf if mean is None else CATALOG[ORDERED_BY].distance(mean)


def _cost(standing: LeaderboardRow) -> list[Cell]:
    memory = None if standing.peak_memory is None else standing.peak_memory / 2**30
    return [
        Cell(numbers.fixed(value, places))
        for value, places in (
            (standing.seconds, 0),
            (memory, 2),
            (standing.forwards, 0),
            (standing.iterations, 0),
            (standing.latents, 0),
            (standing.average_bits, 2),
            (standing.activation_bits, 2),
        )
    ]


def make_board(artifact: Artifact, store: Store, count: int, command: str) -> Board:
    """All that the pages show, with the pictures of the first `count` prompts."""
    facts: LeaderboardFacts = artifact.facts
    metrics = {row: store.follow(ref) for row, ref in artifact.manifest.inputs.items()}
    first = next(iter(metrics.values()))
    images = store.follow(first.manifest.inputs["images"])
    strips, encoding = _strips(artifact, metrics, store, min(count, facts.images))
    return Board(
        command=command,
        setting=setting_facts(images),
        images=facts.images,
        table=table(artifact),
        methods={s.method: METHODS[s.method].cites for s in facts.standings if s.method in METHODS},
        strips=strips,
        encoding=str(encoding),
        width=facts.setting.width,
        height=facts.setting.height,
    )


def _strips(
    artifact: Artifact, metrics: dict[str, Artifact], store: Store, count: int
) -> tuple[tuple[PictureStrip, ...], pictures.Encoding]:
    """Of each prompt: the floating-point picture, then each row's in the order of the table."""
    rows = [f"{standing.method} {standing.bits}" for standing in _ordered(artifact)]
    drawn = [store.follow(metrics[row].manifest.inputs["images"]) for row in rows]
    reference = store.follow(metrics[rows[0]].manifest.inputs["reference"])
    psnr = [metrics[row].read(ORDERED_BY, 0, count) for row in rows]
    found = [images.read("image", 0, count) for images in (reference, *drawn)]
    uris, encoding = pictures.encode([one[i] for i in range(count) for one in found], PICTURE_BYTES)
    prompts = Prompts.of(store.follow(reference.manifest.inputs["prompts"])).texts()
    each, places = len(found), numbers.decimals(float(v) for values in psnr for v in values)
    strips = tuple(
        PictureStrip(
            prompt=prompts[i],
            names=("floating point", *rows),
            pictures=tuple(uris[i * each : (i + 1) * each]),
            scores=("", *(f"{numbers.fixed(float(values[i]), places)} dB" for values in psnr)),
        )
        for i in range(count)
    )
    return strips, encoding
