"""Three measures of sensitivity on the embedded model, the paper's lists, and what a budget buys.

    uv run python benchmarks/sensitivity.py [STORE]

Runs the commands that it needs (those that are up to date compute nothing), writes
docs/benchmarks/sensitivity.md and docs/images/sensitivity.svg.
"""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from scipy.stats import spearmanr

from sdquant_cli.artifacts.latents import Latents, load_items
from sdquant_cli.artifacts.time_table import TimeTable
from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.calibration.sensitivity import OneLayerAtATime, prediction
from sdquant_cli.calibration.tabulated import tabulated_denoiser
from sdquant_cli.metrics.ratios import decibels, energy, noise_to_signal
from sdquant_cli.models.layers import quantizable_layers
from sdquant_cli.models.load import find_model
from sdquant_cli.quant.allocate import WIDTHS, allocate, mixed_bits, noise_by_width
from sdquant_cli.quant.grid import Grid, along_first_axis, round_to_grid
from sdquant_cli.quant.modules import LayerState
from sdquant_cli.quant.weights import weight_scales
from sdquant_cli.store import Artifact, Store
from sdquant_cli.types import Bits, Dtype, Kind, Measure

ROOT = Path(__file__).parents[1]
PAPER = json.loads((ROOT / "tests/data/paper_layers.json").read_text())["sd-v1-4"]
COMMANDS = [
    "sdquant sample --prompts examples/prompts/shapes-train.txt --limit 128",
    "sdquant sensitivity --measure printed",
    "sdquant sensitivity --measure fisher",
    "sdquant sensitivity --measure sqnr",
]
STATES = {  # rounding by data alone, so that only the bits differ
    "w4a8": "--bits w4a8",
    "w4a8 `--mixed`": "--bits w4a8 --mixed",
    "w4a8 `--budget 3`": "--bits w4a8 --budget 3",
}
PICTURES = 32
UNMEASURED = range(16, 48)  # latents that the direct measure has not seen
CPU = torch.device("cpu")
DEEP = ("down_blocks.3.resnets", "mid_block.resnets", "up_blocks.0.resnets.0.conv1")
TYPES = {  # the paper's lists in words; a layer belongs to the first that fits
    "last up block, proj_in and proj_out": lambda n: n.startswith("up_blocks.3") and ".proj_" in n,
    "last up block, attn1.to_out": lambda n: n.startswith("up_blocks.3") and "attn1.to_out" in n,
    "last up block, attn1.to_v": lambda n: n.startswith("up_blocks.3") and "attn1.to_v" in n,
    "last up block, conv_shortcut": lambda n: n.startswith("up_blocks.3") and "conv_shortcut" in n,
    "first down block, proj_in": lambda n: n.startswith("down_blocks.0") and n.endswith("proj_in"),
    "mid block, to_q and to_k": lambda n: n.startswith("mid_block") and n.endswith(("to_q", "to_k")),
    "deep convolutions": lambda n: n.startswith(DEEP) and n.endswith(("conv1", "conv2")),
    "conv_in and conv_out": lambda n: n in ("conv_in", "conv_out"),
    "all others": lambda _: True,
}


def kind_of(name: str) -> str:
    return next(kind for kind, fits in TYPES.items() if fits(name))


def table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def run(command: str, url: str) -> None:
    words = [sys.executable, "-m", "sdquant_cli", *command.split()[1:], "--store", url]
    subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def run_commands(url: str) -> dict[str, Artifact]:
    """The three measures by name; the direct one is the latest."""
    found = {}
    for command in COMMANDS:
        run(command, url)
        if "--measure" in command:
            found[command.split()[-1]] = Store(url).need(Kind.SENSITIVITY)
    return found


def agreement(measures: dict[str, Artifact]) -> str:
    names = list(measures["sqnr"].facts.scores)
    scores = {m: [a.facts.scores[n] for n in names] for m, a in measures.items()}
    rows = [
        [
            f"`{m}`",
            *(f"{spearmanr(scores[m], scores[other]).statistic:.3f}" for other in measures),
            len(set(a.facts.top) & set(PAPER["sensitive"])),
            len(set(a.facts.bottom) & set(PAPER["insensitive"])),
            a.facts.samples,
            f"{a.manifest.provenance.seconds:.0f}",
        ]
        for m, a in measures.items()
    ]
    heads = ["the paper's 13 in our top 13", "in our bottom 13", "latents", "seconds"]
    return table(["rank correlation", *(f"`{m}`" for m in measures), *heads], rows)


def by_type(measures: dict[str, Artifact]) -> str:
    rows = []
    for kind in TYPES:
        names = [n for n in measures["sqnr"].facts.ranking if kind_of(n) == kind]
        ranks = {m: [a.facts.ranking.index(n) + 1 for n in names] for m, a in measures.items()}
        listed = [sum(n in PAPER[end] for n in names) for end in ("sensitive", "insensitive")]
        spread = [f"{np.median(r):.0f} ({min(r)} to {max(r)})" for r in ranks.values()]
        rows.append([kind, len(names), *listed, *spread])
    return table(
        ["layers", "count", "paper: sensitive", "paper: insensitive", *(f"`{m}`" for m in measures)], rows
    )


def figure(direct: Artifact, path: Path) -> None:
    """Every layer's SQNR by type; the paper's lists in colour."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "sdquant", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    chart, axes = plt.subplots(figsize=(8.5, 3.6), layout="constrained")
    kinds = list(TYPES)
    jitter = np.random.default_rng(0)
    groups = [
        ("neither list", "#b0b0b0", lambda n: n not in PAPER["sensitive"] + PAPER["insensitive"]),
        ("the paper's insensitive 13 of SD v1-4", "#2b6cb0", lambda n: n in PAPER["insensitive"]),
        ("the paper's sensitive 13 of SD v1-4", "#c53030", lambda n: n in PAPER["sensitive"]),
    ]
    for label, colour, fits in groups:
        names = [n for n in direct.facts.ranking if fits(n)]
        heights = [kinds.index(kind_of(n)) + jitter.uniform(-0.25, 0.25) for n in names]
        axes.scatter(
            [direct.facts.sqnr[n] for n in names], heights, s=16, c=colour, label=label, linewidths=0
        )
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.set_xlabel("SQNR of the UNet's output with this layer alone at w4a8, dB (left: more sensitive)")
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    chart.savefig(path, metadata={"Date": None})


class Rounding:
    """The embedded UNet with weights at chosen widths, on latents that were not measured."""

    def __init__(self, url: str, direct: Artifact) -> None:
        workspace = Workspace(Store(url))
        table = workspace.input(TimeTable, direct, "time-table")
        self.items = load_items(workspace, workspace.input(Latents, direct, "latents"), table)
        tabulated = tabulated_denoiser(find_model("shapes"), Dtype.FP32, CPU, table.features())
        self.unet, self.rows = tabulated.network, tabulated.rows
        self.layers = quantizable_layers(self.unet)
        self.original = {name: layer.weight.data for name, layer in self.layers.items()}
        self.parameters = np.array([w.numel() for w in self.original.values()])
        self.batches = [self.items.batch(UNMEASURED[i : i + 8], CPU) for i in range(0, len(UNMEASURED), 8)]
        self.targets = self._outputs()

    @torch.no_grad()
    def _outputs(self) -> list[torch.Tensor]:
        return [prediction(self.unet, batch) for batch in self.batches]

    def _rounded(self, name: str, bits: int) -> torch.Tensor:
        weight, grid = self.original[name], Grid(bits, signed=True)
        step = along_first_axis(weight_scales(weight, grid), weight)
        return round_to_grid(weight, step, 0.0, grid)

    def sqnr(self, widths: tuple[int, ...]) -> float:
        """dB of the output with all weights at their widths."""
        for (name, layer), bits in zip(self.layers.items(), widths, strict=True):
            layer.weight.data = self._rounded(name, bits)
        moved = [energy(a - b).sum() for a, b in zip(self._outputs(), self.targets, strict=True)]
        for name, layer in self.layers.items():
            layer.weight.data = self.original[name]
        signal = sum(energy(t).sum() for t in self.targets)
        return decibels(float(sum(moved) / signal))

    def one_by_one(self, bits: int) -> np.ndarray:
        """Noise to signal (layers) with one layer's weights rounded, on the two first latents."""
        direct = OneLayerAtATime(self.unet, self.rows, [self.items.batch(range(2), CPU)])
        grid, none = Grid(bits, signed=True), torch.zeros(1)
        noise = [
            direct.weight_noise(n, LayerState(weight_scales(w, grid), none, none, grid, grid))
            for n, w in self.original.items()
        ]
        return noise_to_signal(torch.stack(noise), direct.signal()).numpy()


def noise_model(rounding: Rounding, errors: np.ndarray) -> str:
    measured = {bits: rounding.one_by_one(bits) for bits in (2, 3, 4, 6, 8)}
    predicted = noise_by_width(measured[4], errors, 4)
    rows = []
    for bits, noise in measured.items():
        guess = predicted[:, WIDTHS.index(bits)]
        off = 10 * np.log10(guess / noise)
        leading = np.argsort(-noise)[:50]
        rows.append(
            [
                bits,
                f"{10 * np.log10(guess.sum() / noise.sum()):+.2f}",
                f"{np.sqrt(np.mean(off[leading] ** 2)):.2f}",
                f"{np.sqrt(np.mean(off**2)):.2f}",
                f"{spearmanr(guess, noise).statistic:.3f}",
            ]
        )
    heads = ["sum of all layers, dB off", "rms dB off, 50 noisiest", "rms dB off, all", "rank correlation"]
    return table(["weight bits", *heads], rows)


def budgets(rounding: Rounding, measures: dict[str, Artifact]) -> str:
    direct, n = measures["sqnr"], rounding.parameters
    total, errors = int(n.sum()), direct.read("rounding_error")
    cost = noise_by_width(np.array(list(direct.facts.weight_noise.values())), errors, 4)
    squares = np.array([float(w.square().sum()) for w in rounding.original.values()])
    fisher = np.array([measures["fisher"].facts.scores[name] for name in rounding.original])
    by_fisher = (fisher / squares)[:, None] * errors

    def row(label: str, widths: tuple[int, ...]) -> list[object]:
        spent = sum(cost[i, WIDTHS.index(b)] for i, b in enumerate(widths))
        average = int(np.array(widths) @ n) / total
        return [label, f"{average:.3f}", f"{decibels(spent):.2f}", f"{rounding.sqnr(widths):.2f}"]

    rows = [row(f"uniform {b}", (b,) * len(n)) for b in (3, 4, 5, 6, 8)]
    for m in Measure:
        facts = measures[m].facts
        rule = mixed_bits(list(rounding.original), Bits(4, 8), facts.top, facts.bottom)
        rows.append(row(f"`--mixed`, by `{m}`", tuple(b.weights for b in rule.values())))
    for average in (2.5, 3, 3.5, 4, 4.25, 5, 6):
        rows.append(row(f"`--budget {average}`", allocate(cost, n, int(average * total)).widths))
    for average in (3, 4):
        widths = allocate(by_fisher, n, int(average * total)).widths
        rows.append(row(f"budget {average}, cost from `fisher`", widths))
    return table(["weights", "average bits by parameters", "predicted, dB", "measured, dB"], rows)


def pictures(url: str) -> str:
    """PSNR of pictures against the floating-point model's, same prompts and noise."""
    generate = f"sdquant generate --limit {PICTURES}"
    run(f"{generate} --model fp", url)
    reference = Store(url).need(Kind.IMAGES, "latest-fp").read("image").astype(np.float64)
    rows = []
    for label, flags in STATES.items():
        run(f"sdquant calibrate {flags} --iterations 0", url)
        run(generate, url)
        images = Store(url).need(Kind.IMAGES, "latest-quantized").read("image").astype(np.float64)
        psnr = 10 * np.log10(255**2 / np.square(images - reference).mean(axis=(1, 2, 3)))
        bits = Store(url).need(Kind.QUANT_STATE).facts.average_bits
        averages = [f"{bits[w]:.2f}" for w in ("weights, by parameters", "activations, by layers")]
        margin = 1.96 * psnr.std(ddof=1) / len(psnr) ** 0.5
        rows.append([label, *averages, f"{psnr.mean():.2f} ± {margin:.2f}"])
    return table(["bits", "weights, by parameters", "activations, by layers", "PSNR, dB"], rows)


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "runs/sensitivity"
    torch.set_num_threads(1)
    measures = run_commands(url)
    figure(measures["sqnr"], ROOT / "docs/images/sensitivity.svg")
    rounding = Rounding(url, measures["sqnr"])
    parts = {
        "COMMANDS": "\n".join(f"    {command}" for command in COMMANDS),
        "AGREEMENT": agreement(measures),
        "TYPES": by_type(measures),
        "MODEL": noise_model(rounding, measures["sqnr"].read("rounding_error")),
        "BUDGETS": budgets(rounding, measures),
        "PICTURES": pictures(url),
    }
    page = (Path(__file__).parent / "sensitivity.template.md").read_text()
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text.rstrip())
    (ROOT / "docs/benchmarks/sensitivity.md").write_text(page)


if __name__ == "__main__":
    main()
