"""Measure calibration with scales per token, by bits and by sampler, on prompts that decided nothing.

    uv run python benchmarks/reach.py                               # all rows, one seed; hours on two cores
    uv run python benchmarks/reach.py --rows w8a8 --seeds 0 1 2     # these rows, and the page
    uv run python benchmarks/reach.py --list

Each row runs the stages of the library in runs/reach; after every result it writes docs/benchmarks/reach.json
and .md. What is there is not made again. A seed is that of the calibration's latents and of its training.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdquant_cli.artifacts.images import Images
from sdquant_cli.artifacts.quant_state import QuantState
from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.cli.render import Terminal
from sdquant_cli.metrics.scores import bootstrap_interval, paired_difference
from sdquant_cli.options.requests import (
    CalibrateRequest,
    EvaluateRequest,
    GenerateRequest,
    SampleRequest,
    SensitivityRequest,
)
from sdquant_cli.stages import calibrate, evaluate, generate, sample, sensitivity
from sdquant_cli.store import Store
from sdquant_cli.types import Engine, Measure

ROOT = Path(__file__).parents[1]
PROMPTS = ROOT / "examples" / "prompts"
PAGES = ROOT / "docs" / "benchmarks"
LATENTS = {"prompts": PROMPTS / "shapes-train.txt", "limit": 192, "per_prompt": 8}
DRAW_SEED = 3000  # latents are sampled with seeds 0, 1, 2
DIVERGED = 20.0  # dB of PSNR, below
HEAD = """\
# Calibration with scales per token

`uv run python benchmarks/reach.py` writes this page. Embedded model, simulated execution, PSNR to the
floating-point pictures of the same noise: the first {count} captions of `examples/prompts/shapes-test.txt`,
drawn with seed {seed}, on which nothing was chosen. States are calibrated on 1,536 latents of 192 captions of
`shapes-train.txt` after `sdquant sensitivity --measure sqnr`, 400 iterations where nothing else is said, none
for *rounding*; a seed is that of latents and training. *4.5 bits* is `--budget 4.5`. Intervals are over
pictures, of their means over seeds. A picture diverges below {diverged:g} dB. Bits are averages over weights,
and over layers. *Floating ends* is `--edges float`: the first and the last layer stay in floating point, as
`sdquant quantize` and SDNQ leave them, and count 32 bits."""
SAMPLERS = {"ddim-20": ("ddim", 20), "euler-30": ("euler", 30), "dpm++-15": ("dpm++", 15)}
FLOATING_ENDS = {"bits": "w8a8", "edges": "float"}
UNIFORM, BUDGET = {"bits": "w4a8"}, {"bits": "w4a8", "budget": "4.5"}


@dataclass(frozen=True)
class Row:
    """The flags of `calibrate`, and the samplers that latents are from and pictures are drawn with."""

    name: str
    calibrate: dict[str, Any]
    sampler: str | None = None  # of the latents; None: the model's, 50 steps of PNDM
    drawn: str | None = None  # sampler of the pictures


def schedule(sampler: str | None) -> dict[str, Any]:
    """Return the flags of a sampler; none for the model's own."""
    scheduler, steps = SAMPLERS.get(sampler or "", (None, None))
    return {"scheduler": scheduler, "steps": steps}


ROWS = [
    Row("w8a8, rounding", {"bits": "w8a8", "iterations": 0}),
    Row("w8a8", {"bits": "w8a8"}),
    Row("w8a8, floating ends, rounding", {**FLOATING_ENDS, "iterations": 0}),
    Row("w8a8, floating ends", FLOATING_ENDS),
    Row("w4a8", UNIFORM),
    Row("w4a8, 2,000 iterations", {**UNIFORM, "iterations": 2000}),
    Row("w4a8, 4.5 bits, rounding", {**BUDGET, "iterations": 0}),
    Row("w4a8, 4.5 bits", BUDGET),
    Row("w4a4, 4.5 bits, mixed, rounding", {**BUDGET, "bits": "w4a4", "mixed": True, "iterations": 0}),
    Row("w4a4, 4.5 bits, mixed", {**BUDGET, "bits": "w4a4", "mixed": True}),
    *(
        Row(f"w4a8, 4.5 bits: of {name or 'pndm-50'}, drawn with {drawn}", BUDGET, name, drawn)
        for drawn in SAMPLERS
        for name in (drawn, None)
    ),
]


def measured(row: Row, seed: int, count: int, store: Store) -> dict[str, Any]:
    """Calibrate, draw and compare; return what the page shows."""
    workspace = Workspace(store, Terminal())
    sample.run(SampleRequest(**LATENTS, **schedule(row.sampler), seed=seed), workspace)
    sensitivity.run(SensitivityRequest(measure=Measure.SQNR), workspace)  # for budgets, and for L_sen
    state: QuantState = calibrate.run(CalibrateRequest(**row.calibrate, seed=seed), workspace)
    drawn = GenerateRequest(
        state=f"quant-state/{state.manifest.key}",
        prompts=PROMPTS / "shapes-test.txt",
        limit=count,
        seed=DRAW_SEED,
        micro_batch=16,
        engine=Engine.SIMULATED,
        **schedule(row.drawn),
    )
    images: Images = generate.run(drawn, workspace)
    metrics = evaluate.run(EvaluateRequest(images=f"images/{images.manifest.key}", floor=False), workspace)
    return {
        "seed": seed,
        "bits": state.facts.average_bits,
        "iterations": state.spec.iterations,
        "psnr": " ".join(f"{value:.2f}" for value in metrics.read("psnr")),
        "artifact": f"metrics/{metrics.manifest.key}",
    }


def page(results: dict[str, list[dict[str, Any]]], count: int) -> str:
    """The page, of the rows that are done."""
    lines = [
        *HEAD.format(count=count, seed=DRAW_SEED, diverged=DIVERGED).splitlines(),
        "",
        "| row | bits of a weight, an activation | seeds | PSNR, dB | median | by seed | diverged |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        if results.get(row.name) and row.drawn is None:
            lines.append(_line(row, results[row.name]))
    if any(row.drawn and row.name in results for row in ROWS):
        lines += ["", "## Another sampler than the calibrated one", "", *_samplers(results)]
    if left := [row.name for row in ROWS if row.name not in results]:
        lines += ["", f"Not made yet: {'; '.join(left)}."]
    return "\n".join([*lines, ""])


def _psnr(found: Sequence[dict[str, Any]]) -> np.ndarray:
    """PSNR (seeds, pictures)."""
    return np.array([result["psnr"].split() for result in found], dtype=float)


def _line(row: Row, found: Sequence[dict[str, Any]]) -> str:
    psnr, bits = _psnr(found), found[0]["bits"]
    weights = bits.get("weights with groups and branches, by parameters", bits["weights, by parameters"])
    low, high = bootstrap_interval(psnr.mean(axis=0))
    cells = [
        row.name,
        f"{weights:.2f}, {bits['activations, by layers']:.1f}",
        str(len(found)),
        f"{psnr.mean():.1f} [{low:.1f}, {high:.1f}]",
        f"{np.median(psnr):.1f}",
        ", ".join(f"{value:.1f}" for value in psnr.mean(axis=1)),
        f"{(psnr < DIVERGED).sum()} of {psnr.size}",
    ]
    return f"| {' | '.join(cells)} |"


def _samplers(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = [
        "The same pictures by a state that was calibrated on latents of the sampler they are drawn with, and",
        "by one that was calibrated on latents of PNDM with 50 steps.",
        "",
        "| drawn with | calibrated on it | calibrated on pndm-50 | difference, dB |",
        "|---|---|---|---|",
    ]
    for drawn in SAMPLERS:
        named = [row.name for row in ROWS if row.drawn == drawn]
        if all(name in results for name in named):
            own, other = (_psnr(results[name]).mean(axis=0) for name in named)
            less = paired_difference(other, own)
            assert less is not None
            assert less.ci95 is not None
            interval = f"{less.mean:+.2f} [{less.ci95[0]:+.2f}, {less.ci95[1]:+.2f}]"
            lines.append(f"| {drawn} | {own.mean():.1f} | {other.mean():.1f} | {interval} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("--rows", nargs="+", default=[row.name for row in ROWS], help="by name")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--count", type=int, default=128, help="pictures")
    parser.add_argument("--store", default=str(ROOT / "runs" / "reach"))
    asked = parser.parse_args()
    if unknown := set(asked.rows) - {row.name for row in ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    path = PAGES / "reach.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for row in ROWS:
        if asked.list:
            print(f"{row.name:60} {row.calibrate}")
        elif row.name in asked.rows:
            done = results.setdefault(row.name, [])
            for seed in asked.seeds:
                if not any(result["seed"] == seed for result in done):
                    print(f"== {row.name}, seed {seed}", flush=True)
                    done.append(measured(row, seed, asked.count, Store(asked.store)))
                    path.write_text(json.dumps(results, indent=1) + "\n")
                    (PAGES / "reach.md").write_text(page(results, asked.count))


if __name__ == "__main__":
    main()
