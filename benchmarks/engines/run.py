"""What SD v1-4 costs to run, quantized and not: docs/benchmarks/engines.{json,md}.

    uv run python -m tools.random_models.make sd-v1-4 --output runs/models/sd-v1-4
    export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1  # and once more with 2
    uv run python benchmarks/engines/run.py runs/models/sd-v1-4

and, beside OpenVINO, for sides of 64 and 32:

    uv run sdquant quantize runs/models/sd-v1-4 --bits w8a8 --output runs/w8a8
    uv run --with openvino --with nncf python benchmarks/engines/openvino_int8.py runs/models/sd-v1-4 \\
        runs/w8a8 --side 64

Random weights: speed and memory are those of the real model, pictures are noise. The store is runs/engines;
what is there is not made again. `--page` writes the page from the JSON alone.
"""

import argparse
import json
import statistics
import tempfile
from itertools import chain, starmap
from pathlib import Path
from typing import Any

import torch

from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.cli.render import Terminal
from sdquant_cli.options.requests import BenchRequest, CalibrateRequest, SampleRequest
from sdquant_cli.stages import bench, calibrate, sample
from sdquant_cli.store import Store

ROOT = Path(__file__).parents[2]
STORE = ROOT / "runs" / "engines"
PAGES = ROOT / "docs" / "benchmarks"
TEMPLATE = Path(__file__).with_suffix(".template.md")
RUNS = [  # bits, side in pixels, items of a call
    ("w8a8", 512, 1),
    ("w8a8", 256, 1),
    ("w8a8", 512, 2),
    ("w8a8", 256, 2),
    ("w4a8", 256, 1),
]


def states(model: Path, store: Store) -> dict[str, str]:
    """A state of each width, by rounding: which one does not matter to time."""
    workspace, made = Workspace(store, Terminal()), {}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as prompts:
        prompts.write("a big red circle\n")
        prompts.flush()
        told = {"steps": 2, "per_prompt": 2, "height": 256, "width": 256}
        sample.run(SampleRequest(prompts=Path(prompts.name), model=str(model), **told), workspace)
    for bits in dict.fromkeys(bits for bits, *_ in RUNS):
        state = calibrate.run(CalibrateRequest(method="rtn", bits=bits), workspace)
        made[bits] = f"quant-state/{state.manifest.key}"
    return made


def page(found: dict[str, Any]) -> str:
    """Markdown tables of all runs, with ratios to the floating-point rows of the same run."""
    tables: list[str] = []
    for title, taken in found.get("beside", {}).items():
        tables += beside(title, taken)
    rows = []
    for title, cost in found.get("memory", {}).items():
        seconds = f"{cost['load_seconds']:.1f} + {cost['first_seconds']:.1f}"
        rows.append(f"| {title} | {seconds} | {cost['peak_bytes'] / 1e9:.2f} |")
    lines: list[str] = []
    for title, ways in found["runs"].items():
        one = "threads: 1," in title
        clock, named = ("call_seconds", "CPU s") if one else ("wall_seconds", "wall s")
        fp32, bf16 = (statistics.median(way[clock]) for way in ways[:2])
        lines += [
            "",
            f"### {title}",
            "",
            f"| computed | {named} of a call | lowest, highest | x fp32 | x bf16 | load + 1st, s | MB "
            "| disk, MB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for way in ways:
            seconds = way[clock]
            middle = statistics.median(seconds)
            lines.append(
                f"| {way['execution']}, {way['dtype']} | {middle:.2f} | "
                f"{min(seconds):.2f}, {max(seconds):.2f} | "
                f"{fp32 / middle:.2f} | {bf16 / middle:.2f} | "
                f"{way['load_seconds']:.1f} + {way['first_call_seconds']:.1f} | "
                f"{way['peak_memory'] / 1e6:.0f} | {way['disk'] / 1e6:.0f} |"
            )
    return TEMPLATE.read_text().format(
        beside="\n".join(tables),
        memory="\n".join(rows),
        parts="\n".join(of_parts(found.get("parts", {}))),
        attention="\n".join(of_attention(found.get("attention", {}))),
        layers="\n".join(chain.from_iterable(starmap(of_layers, found.get("layers", {}).items()))),
        costs="\n".join(lines),
    )


def of_parts(calls: dict[str, dict[str, float]]) -> list[str]:
    """The table of a call's parts, in seconds."""
    names = list(dict.fromkeys(chain.from_iterable(calls.values())))
    lines = [f"| folder, latent, CPU | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
    for title, spent in calls.items():
        cells = (f"{spent.get(name, 0):.2f}" for name in names)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def of_attention(cpus: dict[str, list[dict[str, float]]]) -> list[str]:
    """The table of attention's shapes, on each CPU."""
    lines = [
        "| CPU | queries, keys, channels of a head | torch, s | sdquant, s | x torch |",
        "|---|---|---|---|---|",
    ]
    for cpu, rows in cpus.items():
        for row in rows:
            shape = f"{row['queries']}, {row['keys']}, {row['channels']}"
            times = f"{row['torch']:.4f} | {row['sdquant']:.4f} | {row['torch'] / row['sdquant']:.2f}"
            lines.append(f"| {cpu} | {shape} | {times} |")
    return lines


def of_layers(cpu: str, measured: dict[str, Any]) -> list[str]:
    """The table of all layers on a CPU, in T op/s."""
    peaks = " and ".join(f"{peak:.2f} ({bits})" for bits, peak in measured["peak"].items())
    ways = ("torch fp32", "oneDNN int8", "w8a8", "w4a8")
    lines = [
        "",
        f"### {cpu}: at most {peaks} T op/s",
        "",
        f"| layer, its input | layers | {' | '.join(ways)} | w8a8, w4a8 of the peak |",
        "|---|---|" + "---|" * len(ways) + "---|",
    ]
    for row in measured["rows"]:
        rates = {way: row["operations"] / row[way] / 1e12 for way in ways}
        shares = (f"{rates[bits] / peak:.0%}" for bits, peak in measured["peak"].items())
        cells = " | ".join(f"{rate:.3f}" for rate in rates.values())
        lines.append(f"| {row['layer']} | {row['count']} | {cells} | {', '.join(shares)} |")
    whole = {way: sum(row[way] * row["count"] for row in measured["rows"]) for way in ways}
    cells = " | ".join(f"{seconds:.2f} s" for seconds in whole.values())
    return [*lines, f"| all | {sum(row['count'] for row in measured['rows'])} | {cells} | |"]


def beside(title: str, taken: dict[str, list[float]]) -> list[str]:
    """The table of one run beside OpenVINO."""
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    bar = min(seconds for name, seconds in medians.items() if name.startswith("OpenVINO"))
    plain = [seconds for name, seconds in medians.items() if name.startswith("torch")]
    lines = [
        "",
        f"## Beside OpenVINO, {title}",
        "",
        "| computed | CPU s of a call | lowest, highest | x OpenVINO int8 | x torch |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in taken.items():
        median = medians[name]
        cells = (f"{median:.2f}", f"{min(seconds):.2f}, {max(seconds):.2f}", f"{bar / median:.2f}")
        times_torch = f"{min(plain) / median:.2f}" if plain else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {times_torch} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    path = PAGES / "engines.json"
    found = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    if not asked.page:
        store = Store(str(STORE))
        named = states(asked.model, store)
        for bits, side, items in RUNS:
            latent, threads = f"{side // 8}x{side // 8}", torch.get_num_threads()
            cpu = torch.backends.cpu.get_cpu_capability()
            title = f"{bits}, {latent} latent, items a call: {items}, threads: {threads}, {cpu}"
            if title in found["runs"]:
                continue
            request = BenchRequest(
                state=named[bits],
                height=side,
                width=side,
                items=items,
                repeats=asked.repeats,
                pictures=0,
            )
            result = bench.run(request, Workspace(store, Terminal()))
            found["runs"][title] = [way.model_dump(mode="json") for way in result.ways]
            path.write_text(json.dumps(found, indent=1) + "\n")
    (PAGES / "engines.md").write_text(page(found))


if __name__ == "__main__":
    main()
