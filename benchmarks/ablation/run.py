"""Every component of the method, alone and together, on the embedded model.

    uv run python benchmarks/ablation/run.py                  # all rows; about a day on two cores
    uv run python benchmarks/ablation/run.py --list
    uv run python benchmarks/ablation/run.py --rows all base  # these rows, and the pages

Each row runs the stages of the library in runs/ablation. After every result it writes
docs/benchmarks/ablation.json and .md; what is there is not made again, so the script goes on where it
was stopped. Pictures are drawn from another seed than the calibration latents.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.calibration.items import Batch, shuffled
from sdquant_cli.calibration.sources import BatchContext
from sdquant_cli.cli.render import Terminal
from sdquant_cli.methods import serial_to_parallel
from sdquant_cli.methods.published import METHODS
from sdquant_cli.methods.resolve import reads_ranking
from sdquant_cli.metrics.distribution import frechet_distance
from sdquant_cli.metrics.scores import paired_difference
from sdquant_cli.options.requests import (
    CalibrateRequest,
    EvaluateRequest,
    GenerateRequest,
    SampleRequest,
    SensitivityRequest,
)
from sdquant_cli.stages import calibrate, evaluate, generate, sample, sensitivity
from sdquant_cli.store import Artifact, Store
from sdquant_cli.types import Engine, Kind, Select

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "examples" / "prompts"
STORE = ROOT / "runs" / "ablation"
PAGES = ROOT / "docs" / "benchmarks"
NUMBERS = {"activations": "per-step", "full_range": False}  # of every row: all were measured with these
DRAW_SEED = 1000  # latents are sampled with seed 0
COMPARED = 256  # pictures that claims are made of: FID of different numbers does not compare
DISTANCE, FID = "feature_distance[shapes-clip]", "fid[shapes-clip]"
METRICS = {"psnr": "PSNR", DISTANCE: "feature distance", "median": "its median", FID: "FID-to-FP"}


@dataclass(frozen=True)
class Row:
    """One line of a table: the flags of `sample` and `calibrate`, and what is drawn."""

    name: str
    table: str
    calibrate: dict[str, Any]
    sample: dict[str, Any] = field(default_factory=dict)
    drawn: tuple[tuple[str, int], ...] = (("heldout", 256),)  # prompt file and number
    seeds: tuple[int, ...] = (0,)  # of the calibration
    beside: str | None = None  # the row it is compared with, picture by picture; made before it


COMPONENTS = {"mixed": True, "relax": "none"}  # and the defaults: per-step tables, precalculated time
SINGLE = {"tables": "single"}
BARE = {**SINGLE, "time_path": "quantized"}
LONG = {"bits": "w4a8", "iterations": 2000}
SHORT = {**COMPONENTS, "bits": "w4a8", "iterations": 1000}
RTN = {"method": "rtn", "bits": "w4a8"}
SERIAL_ON_WEIGHTS = {  # with the losses and parameters of the other two
    "method": "serial",
    "train": "weights+steps",
    "zero_points": False,
    "output_weight": 1.0,
    "guided_weight": 0.0,
    "sensitive_weight": 1.0,
    "edges": "none",
}
FEW = (("heldout", 128),)
CHOOSING = (("validation", 64),)
SERIAL = ((2e-4, 1e-3), (5e-5, 1e-3), (1e-5, 1e-3), (1e-5, 1e-4), (2e-6, 1e-4))  # of weights, of step sizes
SHARES = {"conditional alone": 0.0, "1/4 unconditional": 0.25, "1/2 unconditional, unpaired": 0.5}
SCHEDULES = {
    "pndm-25": {"scheduler": "pndm", "steps": 25},
    "unipc-10": {"scheduler": "unipc", "steps": 10},
    "ddim-50": {"scheduler": "ddim", "steps": 50},
}


def claimed(row: Row) -> Row:
    """A row that the claim hangs on: more pictures, more seeds."""
    return replace(row, drawn=(("heldout", 500), ("unseen", 500)), seeds=(0, 1, 2))


def rows() -> list[Row]:
    """The tables, in the order they are made."""

    def part(name: str, **flags: Any) -> Row:
        return Row(name, "components", {**LONG, **COMPONENTS, **flags}, beside="all")

    rounded = [Row("rtn, single table", "components", {**RTN, **SINGLE})]
    rounded += [
        # nothing is random in rounding: one seed
        replace(claimed(Row("rtn, per-step tables", "components", RTN, beside=rounded[0].name)), seeds=(0,)),
        Row("rtn w8a8, per-step tables", "components", {**RTN, "bits": "w8a8"}),
    ]
    components = [
        claimed(Row("all", "components", {**LONG, **COMPONENTS})),
        part("base", **{**SERIAL_ON_WEIGHTS, "sensitive_weight": 0.0}, mixed=False, **BARE),
        claimed(part("serial + components, no block features", **SERIAL_ON_WEIGHTS)),
        part("parallel + components, no block features", method="parallel", block_weight=0.0),
        part("without precalculation", time_path="quantized"),
        part("without per-step tables", **SINGLE),
        part("without mixed precision", mixed=False),
        part("without L_sen", sensitive_weight=0.0),
        part("without range search", ranges="min-max"),
        part("without block distillation", block_weight=0.0),
        part("without L_sen and block distillation", sensitive_weight=0.0, block_weight=0.0),
        replace(part("all, relaxed steps", relax="last"), beside="without L_sen", seeds=(0, 1, 2)),
    ]
    shipped = [
        Row(
            f"default {bits}, {iterations} iterations",
            "components",
            {"bits": bits, "mixed": True, "iterations": iterations},
            seeds=(0, 1, 2),
        )
        for bits, iterations in (("w4a8", 400), ("w8a8", 250))
    ]
    bits = [
        Row(f"{method} {width}", "bits", {"method": method, **more, "bits": width}, drawn=FEW, beside=beside)
        for width in ("w8a8", "w4a8", "w4a6", "w4a4", "w3a8")
        for method, more, beside in (
            ("rtn", {}, None),
            ("serial", {**SHORT, **SERIAL_ON_WEIGHTS}, None),
            ("serial-to-parallel", SHORT, f"serial {width}"),
        )
    ]
    # of what `--mixed` gives, how much takes no training?
    bits += [
        replace(
            row,
            name=f"{row.name}, mixed",
            calibrate={**row.calibrate, **COMPONENTS},
            beside=row.name.replace("rtn", "serial-to-parallel"),
        )
        for row in bits
        if row.calibrate["method"] == "rtn"
    ]
    # a table per step should be worth the more, the fewer bits activations have
    twins = ("rtn w8a8", "rtn w4a6", "rtn w4a4", "serial-to-parallel w4a4")
    bits += [
        replace(row, name=f"{row.name}, single table", calibrate={**row.calibrate, **SINGLE}, beside=row.name)
        for row in bits
        if row.name in twins
    ]
    schedules = [
        Row(f"{name} {schedule}", "schedules", flags, setting, FEW, beside=beside)
        for schedule, setting in SCHEDULES.items()
        for name, flags, beside in (("rtn", RTN, None), ("serial-to-parallel", SHORT, f"rtn {schedule}"))
    ]
    # at equal latents: all steps of few prompts against few steps of many
    data = [
        Row(
            f"{prompts} prompts x {per}",
            "data",
            SHORT,
            {"limit": prompts, "per_prompt": per},
            FEW,
            beside=beside,
        )
        for prompts, per, beside in (
            (5, 50, None),
            (250, 1, "5 prompts x 50"),
            (40, 50, "serial-to-parallel w4a8"),  # whose latents are 8 of each of 256 prompts
        )
    ]
    # as good as W8A8? Longer training, and what may keep it from learning its prompts by heart
    many = {"prompts": PROMPTS / "shapes-many.txt"}
    moonshot = [
        Row(name, "moonshot", {**LONG, **COMPONENTS, **flags}, sampled, beside="without L_sen")
        for name, flags, sampled in (
            ("all, 10,000 iterations", {"iterations": 10_000}, {}),
            ("all, 2,048 prompts", {}, many),
            ("all, 2,048 prompts, 6,000 iterations", {"iterations": 6000}, many),
        )
    ]
    return [*rounded, *components, *shipped, *_choices(), *bits, *schedules, *data, *moonshot, *_pairs()]


def _choices() -> list[Row]:
    """What the defaults of training were chosen by: short runs, and pictures of a validation split."""
    flags: dict[str, dict[str, Any]] = {
        "averaging 0.99": {"averaging": 0.99},
        "freezing 0.02": {"freezing": 0.02},
        **{share: {"method": share} for share in SHARES},
        "weights at 5e-5": {"weight_rate": 5e-5},
        "weights at 5e-4": {"weight_rate": 5e-4},
        "step sizes at 1e-4": {"step_rate": 1e-4},
        "guided 1": {"guided_weight": 1.0},
        "single table": SINGLE,
        "single table, step sizes at 1e-4": {**SINGLE, "step_rate": 1e-4},
        # rates that suit mixed steps need not suit batches of one step
        **{
            f"serial, rates {weights:.0e} and {steps:.0e}": {
                **SERIAL_ON_WEIGHTS,
                "weight_rate": weights,
                "step_rate": steps,
            }
            for weights, steps in SERIAL
        },
        "parallel": {"method": "parallel"},
        "parallel, weights at 5e-5": {"method": "parallel", "weight_rate": 5e-5},
    }
    common = {"bits": "w4a8", **COMPONENTS, "iterations": 400}
    chosen = Row("the defaults", "choices", common, {"limit": 192}, CHOOSING)
    others = [
        replace(chosen, name=name, calibrate={**common, **changed}, beside=chosen.name)
        for name, changed in flags.items()
    ]
    return [chosen, *others]


class Share:
    """Stored latents at mixed timesteps, as the default method has them, but each once: a share of the
    items of a batch is unconditional."""

    def __init__(self, share: float, context: BatchContext) -> None:
        self._share, self._context = share, context

    def batch(self, iteration: int) -> Batch:
        m = self._context
        latent = shuffled(len(m.items), 2 * m.batch_size, iteration, m.seed)
        given = torch.arange(len(latent)) >= round(self._share * len(latent))
        return m.items.some(latent + len(m.items) * given, m.device)

    def learn(self, prediction: torch.Tensor) -> None:
        """Nothing: the latents are there already."""


def add_shares() -> None:
    """Make methods of them, the default one but for its batches."""
    own = serial_to_parallel.RECIPE
    for name, share in SHARES.items():
        METHODS[name] = replace(own, name=name, source=partial(Share, share))


def _pairs() -> list[Row]:
    """Published methods at W4A8, each with and without what it is about."""

    def row(name: str, sampled: dict[str, Any] | None = None, **calibrate: Any) -> Row:
        method, _, changed = name.partition(",")
        own = METHODS[method].data
        data = {"limit": own.prompts, "per_prompt": own.per_prompt, "select": own.select, **(sampled or {})}
        beside = method if changed else None
        return Row(name, "pairs", {"method": method, "bits": "w4a8", **calibrate}, data, beside=beside)

    return [
        row("eda-dm"),
        row("eda-dm, uniform stride", {"select": Select.STRIDE}),
        row("eda-dm, without layers' errors", layer_weight=0.0),
        row("q-diffusion"),
        row("q-diffusion, without the split", split_shortcuts=False),
        row("pcr", edges="w8a16"),
        row("pcr, not progressive", edges="w8a16", tables="per-step"),
    ]


def measure(metrics: Artifact, store: Store, count: int) -> dict[str, float]:
    """What the tables show, of the first `count` pictures."""
    sides = [store.follow(metrics.manifest.inputs[side]) for side in ("images", "reference")]
    distance = metrics.read(DISTANCE)[:count]
    return {
        "psnr": float(metrics.read("psnr")[:count].mean()),
        DISTANCE: float(distance.mean()),
        "median": float(np.median(distance)),
        FID: frechet_distance(*(features(side, store)[:count] for side in sides)),
    }


def compare(table_of: Sequence[Row], results: dict[str, list[dict[str, Any]]]) -> None:
    """Put each row beside the other that it names, where both are there and that is not done.

    Rows that were made before results kept their pictures' PSNR are left as they are.
    """
    for row in table_of:
        for result in results.get(row.name, ()):
            for other in results.get(row.beside or "", ()):
                same = all(result[name] == other[name] for name in ("seed", "prompts"))
                known = "pictures" in result and "pictures" in other
                if same and known and result["beside"] is None:
                    ours, theirs = (np.array(r["pictures"].split(), dtype=float) for r in (result, other))
                    count = min(len(ours), len(theirs))
                    less = paired_difference(ours[:count], theirs[:count])
                    if less and less.ci95:
                        result["beside"] = {"count": count, "psnr": [less.mean, *less.ci95]}


def features(images: Artifact, store: Store) -> np.ndarray:
    """Features (N,D) by the embedded model's CLIP."""
    found = [a for a in store.dependents(images.manifest) if a.ref.kind is Kind.FEATURES]
    return next(a.read("feature") for a in found if a.spec.network == "shapes-clip")


def run_row(row: Row, done: Sequence[dict[str, Any]], store: Store) -> Iterator[dict[str, Any]]:
    """Make what is missing of a row: a result for each seed and prompt file."""
    workspace = Workspace(store, Terminal())
    there = {(result["seed"], result["prompts"]) for result in done}
    flags = {"prompts": PROMPTS / "shapes-train.txt", "per_prompt": 8, **row.sample}
    for seed in row.seeds:
        missing = [(prompts, count) for prompts, count in row.drawn if (seed, prompts) not in there]
        if not missing:
            continue
        began = time.perf_counter()
        sample.run(SampleRequest(**flags), workspace)
        request = CalibrateRequest(seed=seed, **{**NUMBERS, **row.calibrate})
        if reads_ranking(request, METHODS[request.method]):
            sensitivity.run(SensitivityRequest(limit=256), workspace)
        state = calibrate.run(request, workspace)
        for prompts, count in missing:
            drawn = GenerateRequest(
                state=f"quant-state/{state.manifest.key}",
                prompts=PROMPTS / f"shapes-{prompts}.txt",
                limit=count,
                seed=DRAW_SEED,
                engine=Engine.SIMULATED,
            )
            images = generate.run(drawn, workspace)
            measured = EvaluateRequest(images=f"images/{images.manifest.key}", floor=False)
            metrics = evaluate.run(measured, workspace)
            counts = sorted({min(COMPARED, count), count})
            yield {
                "seed": seed,
                "prompts": prompts,
                "artifact": f"metrics/{metrics.manifest.key}",
                "weight_bits": state.facts.average_bits["weights, by parameters"],
                "iterations": state.spec.iterations,
                "metrics": {str(count): measure(metrics, store, count) for count in counts},
                "pictures": " ".join(f"{value:.2f}" for value in metrics.read("psnr")),  # dB
                "beside": None,
                "seconds": round(time.perf_counter() - began),
            }


def page(results: dict[str, list[dict[str, Any]]], table_of: Sequence[Row]) -> str:
    """All tables in Markdown, of the rows that are done."""
    lines = [
        "# The method, component by component",
        "",
        "`uv run python benchmarks/ablation/run.py` writes this page. Embedded model, simulated execution,",
        f"the same noise in every row (seed {DRAW_SEED}; calibration latents: seed 0). Values are means over",
        "pictures and, where there are several, over calibration seeds (lowest and highest in brackets).",
        "FID depends on the number of pictures: compare rows of equal N. The last column is the mean",
        "difference in PSNR to another row's pictures of the same prompts and noise (seed 0), with its",
        "95% interval. What follows from the rows, and why some are not what was expected:",
        "[defaults.md](defaults.md). Only rows that say so, `default` and `pcr` have relaxed steps.",
        "",
        "Rows differ in more than their names: `all` has 4.03 bits a weight and 8.2 an activation (mixed",
        "precision) where `rtn` and `base` have 4.00 and 8, and inter-layer distillation, which no row of",
        "`serial` or `parallel` has. Intervals are over pictures of one calibration; calibrations themselves",
        "differ by up to 0.8 dB (rows of three seeds, which share one set of latents).",
    ]
    for table in dict.fromkeys(row.table for row in table_of):
        done = [row for row in table_of if row.table == table and row.name in results]
        if done:
            lines += ["", f"## {table}", "", *_table(done, results)]
    if missing := [row.name for row in table_of if row.name not in results]:
        lines += ["", f"Not made yet: {'; '.join(missing)}."]
    return "\n".join([*lines, ""])


def _table(done: Sequence[Row], results: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = [
        f"| row | prompts | N | seeds | {' | '.join(METRICS.values())} | PSNR beside |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in done:
        for prompts, _ in row.drawn:
            own = [r for r in results[row.name] if r["prompts"] == prompts]
            for count in own[0]["metrics"] if own else ():
                cells = [_cell([r["metrics"][count][name] for r in own]) for name in METRICS]
                cells.append(_beside(row, own[0]["beside"], int(count)))
                lines.append(f"| {row.name} | {prompts} | {count} | {len(own)} | {' | '.join(cells)} |")
    return lines


def _beside(row: Row, found: dict[str, Any] | None, count: int) -> str:
    """How far from another row, picture by picture, on the line of the pictures that both have."""
    if found is None or found["count"] != count:
        return ""
    return "{:+.2f} [{:+.2f}, {:+.2f}] ".format(*found["psnr"]) + str(row.beside)


def _cell(values: Sequence[float]) -> str:
    text = f"{statistics.fmean(values):.4g}"
    return text if len(values) == 1 else f"{text} [{min(values):.4g}, {max(values):.4g}]"


def main(
    argv: Sequence[str] | None = None, table_of: Sequence[Row] | None = None, pages: Path = PAGES
) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("--rows", nargs="+", help="only these, by name")
    parser.add_argument("--store", default=str(STORE))
    asked, table_of = parser.parse_args(argv), table_of or rows()
    add_shares()
    if unknown := set(asked.rows or ()) - {row.name for row in table_of}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    path = pages / "ablation.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for row in table_of:
        if asked.list:
            print(f"{row.table:12} {row.name:32} {row.calibrate}")
        elif not asked.rows or row.name in asked.rows:
            print(f"== {row.name}", flush=True)
            done = results.get(row.name, [])
            store = Store(asked.store)
            for result in run_row(row, tuple(done), store):
                done.append(result)
                results[row.name] = done
                compare(table_of, results)
                path.write_text(json.dumps(results, indent=1) + "\n")
                (pages / "ablation.md").write_text(page(results, table_of))


if __name__ == "__main__":
    main()
