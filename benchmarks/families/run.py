"""The families at full size with random weights: names, counts, memory of the stages.

    uv run python -m benchmarks.families.run           # all; an hour or so, 20 GB of disk
    uv run python -m benchmarks.families.run sdxl --rows sample
    uv run python -m benchmarks.families.run --counts  # what needs no weights; seconds
    uv run python -m benchmarks.families.run --share   # the UNet's share of the sampling loop
    uv run python -m benchmarks.families.run --tables  # the time tables' equality

Pipelines are made by tools/random_models under runs/models and removed afterwards. Each stage is a process
of its own; its memory is the largest resident set that the OS saw. After every row the results are in
docs/benchmarks/families.json and .md.
"""

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from sdquant_cli.manifests import ModelRef, Setting
from sdquant_cli.models.conditioning import Conditioning, predict, size_ids
from sdquant_cli.models.denoise import denoise
from sdquant_cli.models.layers import quantizable_layers, time_layers
from sdquant_cli.models.load import find_model
from sdquant_cli.models.time_table import embed_timesteps, run_on_prompt_tables, run_on_table, tabulate
from sdquant_cli.models.trajectory import Trajectory
from sdquant_cli.quant.allocate import extremes
from sdquant_cli.quant.rows import Rows
from sdquant_cli.store import Store
from sdquant_cli.types import Dtype
from tools.random_models.configurations import PIPELINES

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "benchmarks"
MODELS, STORES = ROOT / "runs" / "models", ROOT / "runs" / "families"
PAPER = json.loads((ROOT / "tests" / "data" / "paper_layers.json").read_text())
GIB = 2**30
PREDICTED = "peak memory, bytes"  # by --dry-run


@dataclass(frozen=True)
class Row:
    """One stage of one pipeline, after what it needs; its memory must stay below `bound` bytes."""

    pipeline: str
    name: str
    words: tuple[str, ...]
    bound: float | None = None
    dtype: str = "bf16"


def rows() -> list[Row]:
    found = [
        Row(
            "sd-v1-4",
            "sample, 64x64, batch 1",
            ("sample", "--steps", "2", "--per-prompt", "2", "--micro-batch", "1"),
            4.5e9,
        ),
        Row("sd-v1-4", "sample", ("sample", *_SMALL)),
        Row("sd-v1-4", "precalc-time", ("precalc-time",)),
        Row("sd-v1-4", "calibrate, step sizes only", (*_CALIBRATE, "--train", "steps"), 10 * GIB),
        Row("sd-v1-4", "calibrate, weights and step sizes", (*_CALIBRATE, *_LEAN), 20 * GIB),
    ]
    for name in ("sdxl", "sd3-medium"):
        found += [
            Row(name, "sample", ("sample", *_SMALL), 14e9),
            Row(name, "precalc-time", ("precalc-time",), 14e9),
            Row(name, "calibrate --method rtn", ("calibrate", "--method", "rtn", "--bits", "w4a8"), 14e9),
            Row(name, "generate", ("generate", "--micro-batch", "1"), 14e9),
        ]
    return found


_TWO = ("--steps", "2", "--per-prompt", "2", "--micro-batch", "1")
_SMALL = ("--height", "256", "--width", "256", *_TWO)  # latents of 32x32
_CALIBRATE = ("calibrate", "--bits", "w4a8", "--iterations", "3", "--batch-size", "1")
_LEAN = ("--teacher-dtype", "bf16", "--checkpointing")


# ------------------------------------------------------------------------- without weights


def skeleton(name: str) -> nn.Module:
    parts = PIPELINES[name][1]
    cls, config = parts.get("unet") or parts["transformer"]
    with torch.device("meta"):
        network: nn.Module = getattr(diffusers, cls)(**config)
    return network


def macs(network: Any, side: int) -> dict[str, int]:
    """Multiply-accumulates of each quantizable layer for one UNet item with latents of side x side."""
    found: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def see(layer: Any, _: object, output: torch.Tensor) -> None:
            channels = layer.weight.shape[0]
            found[name] = output.numel() // channels * layer.weight.numel()

        return see

    layers = quantizable_layers(network)
    handles = [layer.register_forward_hook(count(name)) for name, layer in layers.items()]
    config, more = network.config, {}
    with torch.device("meta"):
        if config.get("addition_embed_type") == "text_time":
            more = {"added_cond_kwargs": {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}}
        x, text = torch.empty(1, 4, side, side), torch.empty(1, 77, config["cross_attention_dim"])
        network(x, torch.tensor(1.0), text, **more)
    for handle in handles:
        handle.remove()
    return found


def average_bits(name: str, key: str, side: int) -> tuple[float, float]:
    """Weight bits of W4 with the paper's sensitive layers at 8: by parameters, by multiply-accumulates."""
    network = skeleton(name)
    bits = {layer: 8 if layer in PAPER[key]["sensitive"] else 4 for layer in quantizable_layers(network)}
    by = {
        "parameters": {n: layer.weight.numel() for n, layer in quantizable_layers(network).items()},
        "macs": macs(network, side),
    }
    parameters, operations = (
        sum(bits[n] * weight for n, weight in weights.items()) / sum(weights.values())
        for weights in by.values()
    )
    return parameters, operations


def counts() -> dict[str, dict[str, Any]]:
    """What follows from the published configurations alone."""
    found: dict[str, dict[str, Any]] = {}
    for name in PIPELINES:
        network = skeleton(name)
        layers, time_path = quantizable_layers(network), time_layers(network)
        found[name] = {
            "quantizable layers": len(layers),
            "of these 5%": len(extremes(list(layers))[0]),
            "parameters, millions": sum(p.numel() for p in network.parameters()) / 1e6,
            "time path, layers": len(time_path),
            "time path, parameters, millions": sum(
                p.numel() for layer in time_path.values() for p in layer.parameters()
            )
            / 1e6,
        }
    for name, key, side in (("sd-v1-4", "sd-v1-4", 64), ("sdxl", "sdxl-1.0", 96)):
        parameters, operations = average_bits(name, key, side)
        named = PAPER[key]["sensitive"] + PAPER[key]["insensitive"]
        found[name] |= {
            "of the paper's layer names, present": sum(
                n in quantizable_layers(skeleton(name)) for n in named
            ),
            "weight bits, by parameters": parameters,
            f"weight bits, by MACs at {side}x{side}": operations,
        }
    return found


# ---------------------------------------------------------------------------- with weights


def pipeline(name: str, dtype: str) -> Path:
    """The folder of a pipeline with random weights, made where it is absent."""
    folder = MODELS / f"{name}-{dtype}"
    if not (folder / "model_index.json").exists():
        command = [sys.executable, "-m", "tools.random_models.make", name]
        subprocess.run([*command, "--output", str(folder), "--dtype", dtype], check=True, cwd=ROOT)
    return folder


def run(row: Row) -> dict[str, Any]:
    """A stage in a process of its own: seconds, largest resident set, facts."""
    prompts = STORES / "prompts.txt"
    STORES.mkdir(parents=True, exist_ok=True)
    prompts.write_text("a red circle\n" if row.name != "generate" else "a blue square\n")
    words = list(row.words)
    if words[0] == "sample":
        shutil.rmtree(STORES / row.pipeline, ignore_errors=True)
        words += [
            "--prompts",
            str(prompts),
            "--dtype",
            row.dtype,
            "--model",
            str(pipeline(row.pipeline, row.dtype)),
        ]
    if words[0] == "generate":
        words += ["--prompts", str(prompts)]
    command = [sys.executable, "-m", "sdquant_cli", *words, "--store", str(STORES / row.pipeline), "--json"]
    planned = subprocess.run([*command, "--dry-run"], check=True, stdout=subprocess.PIPE, text=True).stdout
    began, started = time.perf_counter(), datetime.now(UTC)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{row.pipeline}: {' '.join(words)} failed")
    document = json.loads(printed)
    if datetime.fromisoformat(document["provenance"]["created_at"]) < started:
        raise SystemExit(f"{row.pipeline}, {row.name}: was there already; measure it from --rows sample on")
    facts = document["facts"]
    return {
        "pipeline": row.pipeline,
        "row": row.name,
        "dtype": row.dtype,
        "command": f"sdquant {' '.join(row.words)}",
        "seconds": time.perf_counter() - began,
        # every artifact being made resets the kernel's mark of the largest resident set
        "peak_bytes": max(usage.ru_maxrss * 1024, *_peaks(STORES / row.pipeline, started)),
        "predicted_bytes": json.loads(planned)["plan"].get(PREDICTED),
        "bound_bytes": row.bound,
        "facts": {
            k: facts[k] for k in ("table_bytes", "prompt_table_bytes", "removed_parameters") if k in facts
        },
    }


def _peaks(store: Path, since: datetime) -> list[int]:
    """Of each artifact made since then, bytes."""
    made = (artifact.manifest.provenance for artifact in Store(str(store)).artifacts())
    since = since.replace(microsecond=0)
    return [p.peak_memory or 0 for p in made if datetime.fromisoformat(p.created_at) >= since]


def unet_share() -> dict[str, float]:
    """How much of the sampling loop is the UNet's: SD v1-4, bf16, latents of 64x64, one prompt."""
    model = find_model(str(pipeline("sd-v1-4", "bf16")))
    setting = Setting(
        model=ModelRef(source="", digest=""),
        scheduler="pndm",
        steps=4,
        guidance_scale=7.5,
        height=512,
        width=512,
        dtype="bf16",
    )
    network, spent = model.denoiser(Dtype.BF16), [0.0]
    network.register_forward_pre_hook(lambda *_: spent.append(-time.perf_counter()))
    network.register_forward_hook(lambda *_: spent.append(time.perf_counter()))
    conditioning = Conditioning(torch.randn(2, *model.text_shape))
    began = time.perf_counter()
    denoise(network, Trajectory(model.sampler(setting), torch.randn(1, 4, 64, 64)), conditioning, 7.5)
    whole = time.perf_counter() - began
    return {"share": sum(spent) / whole, "seconds a call": sum(spent) / (len(spent) // 2)}


@torch.no_grad()
def table_error(name: str) -> float:
    """Largest difference of the denoiser on its tables from the original, relative to the largest output.

    fp32, latents of 32x32, two prompts one after the other, each at two timesteps.
    """
    model = find_model(str(pipeline(name, "bf16")))
    network, timesteps = model.denoiser(), [801.0, 401.0]
    lean = copy.deepcopy(network, {id(p): p for p in network.parameters()})
    rows, g = Rows(timesteps), torch.Generator().manual_seed(0)
    if model.family.pooled:
        run_on_prompt_tables(lean, embed_timesteps(lean, timesteps), rows)
    else:
        run_on_table(lean, tabulate(lean, timesteps), rows)
    x, worst, largest = torch.randn(1, *model.input_shape(256, 256), generator=g), 0.0, 0.0
    for _ in range(2):
        pooled = torch.randn(1, model.pooled_width, generator=g) if model.pooled_width else None
        size = size_ids(256, 256) if model.family.sized else None
        conditioning = Conditioning(torch.randn(1, *model.text_shape, generator=g), pooled, size)
        for t in timesteps:
            wanted, found = (predict(net, x, torch.tensor(t), conditioning) for net in (network, lean))
            worst = max(worst, float((found - wanted).abs().max()))
            largest = max(largest, float(wanted.abs().max()))
    return worst / largest


# -------------------------------------------------------------------------------- the page


def page(results: dict[str, Any]) -> str:
    lines = [
        "# The families at full size",
        "",
        "`uv run python -m benchmarks.families.run` writes this page (a pipeline's name or a flag: a",
        "part of it). Published configurations, random weights.",
        "",
        "## What follows from the configurations",
        "",
        f"| | {' | '.join(results['counts'])} |",
        "|---" * (1 + len(results["counts"])) + "|",
    ]
    for name in dict.fromkeys(key for column in results["counts"].values() for key in column):
        cells = (_number(column.get(name)) for column in results["counts"].values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if errors := results.get("table errors"):
        lines += ["", "## The tables", ""]
        lines += [
            "Largest difference of the denoiser on its tables from the original over the largest output: "
            "fp32, latents of 32x32, two prompts, two timesteps.",
            "",
            f"| {' | '.join(errors)} |",
            "|---" * len(errors) + "|",
            f"| {' | '.join(f'{error:.1e}' for error in errors.values())} |",
        ]
    if results.get("rows"):
        lines += ["", "## The stages", "", _threads(), ""]
        lines += ["| pipeline | stage | peak memory | `--dry-run` said | must stay below | seconds |"]
        lines += ["|---|---|---|---|---|---|"]
        for r in results["rows"].values():
            bound = f"{r['bound_bytes'] / GIB:.2f} GiB" if r["bound_bytes"] else ""
            said = f"{r['predicted_bytes'] / GIB:.2f} GiB" if r.get("predicted_bytes") else ""
            peak = f"{r['peak_bytes'] / GIB:.2f} GiB"
            cells = (r["pipeline"], f"`{r['command']}`", peak, said, bound)
            lines.append(f"| {' | '.join(cells)} | {r['seconds']:.0f} |")
        if share := results.get("unet share"):
            lines += [
                "",
                f"Of the sampling loop of sd-v1-4 (bf16, latents of 64x64, one prompt, two items a call) the "
                f"UNet has {share['share']:.2%}; {share['seconds a call']:.1f} s a call.",
            ]
        for r in results["rows"].values():
            if r["facts"]:
                said = ", ".join(f"{k} {v}" for k, v in r["facts"].items() if v is not None)
                lines += ["", f"{r['pipeline']}, {r['row']}: {said}."]
    return "\n".join([*lines, ""])


def _threads() -> str:
    return (
        f"Peak memory is the OS's figure for the whole process, imports included; {torch.get_num_threads()} "
        "threads."
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipelines", nargs="*", help=", ".join(PIPELINES))
    parser.add_argument("--rows", nargs="+", help="only rows that begin so")
    parser.add_argument("--counts", action="store_true", help="only what needs no weights")
    parser.add_argument("--share", action="store_true", help="only the UNet's share of the sampling loop")
    parser.add_argument("--tables", action="store_true", help="only the tables' equality")
    asked = parser.parse_args(argv)
    path = PAGES / "families.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results |= {"counts": counts()}
    everything = not (asked.counts or asked.share or asked.tables or asked.rows or asked.pipelines)
    if asked.share or everything:
        results["unet share"] = unet_share()
    if asked.tables or everything:
        for name in asked.pipelines or PIPELINES:
            results.setdefault("table errors", {})[name] = table_error(name)
            print(name, results["table errors"][name], flush=True)
    wanted = [
        row
        for row in rows()
        if not (asked.counts or asked.share or asked.tables)
        and row.pipeline in (asked.pipelines or PIPELINES)
        and (not asked.rows or row.name.startswith(tuple(asked.rows)))
    ]
    for row in wanted:
        print(f"== {row.pipeline}: {row.name}", flush=True)
        found = run(row)
        print(f"{found['peak_bytes'] / GIB:.2f} GiB, {found['seconds']:.0f} s", flush=True)
        results.setdefault("rows", {})[f"{row.pipeline}: {row.name}"] = found
        _write(path, results)
    _write(path, results)
    if not asked.rows:
        for folder in {row.pipeline for row in wanted}:
            shutil.rmtree(STORES / folder, ignore_errors=True)
            shutil.rmtree(MODELS / f"{folder}-bf16", ignore_errors=True)


def _write(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(results))


if __name__ == "__main__":
    main()
