"""What rounding costs before anything is trained, by its kind and by where: SNR of the UNet's output.

    uv run python benchmarks/rounding.py        # prints the tables of docs/benchmarks/rounding.md

Weights or inputs of the embedded model's layers are rounded, nothing else, for calls on calibration latents
at mixed timesteps. Unless a row says so, the first and the last layer stay as they are.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from sdquant_cli.artifacts.latents import load_items
from sdquant_cli.artifacts.time_table import make_time_table
from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.calibration.items import prediction
from sdquant_cli.calibration.smoothing import find_smoothings
from sdquant_cli.cli.render import Terminal
from sdquant_cli.events import SILENT
from sdquant_cli.metrics.ratios import snr
from sdquant_cli.models.layers import quantizable_layers
from sdquant_cli.models.shortcuts import SHORTCUT
from sdquant_cli.options.requests import SampleRequest
from sdquant_cli.quant.format import NumberFormat
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.smoothing import smoothed_input, smoothed_weight
from sdquant_cli.quant.tokens import TokenQuantizer
from sdquant_cli.quant.weights import WeightQuantizer, weight_scales
from sdquant_cli.stages import sample
from sdquant_cli.store import Store
from sdquant_cli.types import Bits

ROOT = Path(__file__).parents[1]
PROMPTS = ROOT / "examples" / "prompts" / "shapes-train.txt"
LATENTS = 24

Chosen = Callable[[str], bool]
KINDS: dict[str, Chosen] = {
    "shortcut convolutions": lambda name: name.endswith(SHORTCUT),
    "proj_in, proj_out": lambda name: name.endswith(("proj_in", "proj_out")),
    "3x3 convolutions of residual blocks": lambda name: name.endswith((".conv1", ".conv2")),
    "feed-forward, second layer": lambda name: name.endswith("net.2"),
    "feed-forward, first layer": lambda name: ".net.0." in name,
    "attention, output": lambda name: ".to_out." in name,
    "attention, q, k and v": lambda name: name.endswith(("to_q", "to_k", "to_v")),
    "up- and downsamplers": lambda name: "samplers" in name,
}


class Trial:
    """The embedded UNet, and its floating-point output on some latents."""

    def __init__(self, workspace: Workspace) -> None:
        latents = sample.run(SampleRequest(prompts=PROMPTS, limit=LATENTS, per_prompt=1), workspace)
        setting = latents.spec.setting
        self.network = workspace.model(setting).denoiser()
        self.layers = quantizable_layers(self.network)
        table = make_time_table(workspace, workspace.model(setting), setting)
        self.items = load_items(workspace, latents, table, LATENTS)
        self.batch = self.items.batch(range(LATENTS), torch.device("cpu"))
        self.expected = self.output()
        names = list(self.layers)
        self.ends = (names[0], names[-1])

    def smoothings(self, bits: str) -> dict[str, Tensor]:
        """Return the numbers with which `calibrate --smoothing` multiplies the channels of inputs."""
        every = dict.fromkeys(self.layers, Bits.parse(bits))
        form = NumberFormat(per_token=True, full_range=True, smoothing=True)
        return find_smoothings(self.network, every, form, self.items, SILENT)

    @torch.no_grad()
    def output(self) -> Tensor:
        return prediction(self.network, self.batch)

    def ratio(self, weights: Grid | None = None, inputs: Grid | None = None, **where: object) -> float:
        """Return the mean SNR, dB, with weights and inputs of the chosen layers rounded."""
        with self._rounded(weights, inputs, **where):
            return float(snr(self.expected, self.output()).mean())

    @contextmanager
    def _rounded(
        self,
        weights: Grid | None,
        inputs: Grid | None,
        *,
        chosen: Chosen | None = None,
        group: int | None = None,
        wider: Chosen | None = None,
        smoothings: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Iterator[None]:
        """Round within the context; inputs of the `wider` layers have 16 bits."""
        hooks, originals = [], {}
        for name, layer in self.layers.items():
            if not (name not in self.ends if chosen is None else chosen(name)):
                continue
            axis, smoothing = 1 if isinstance(layer, nn.Conv2d) else -1, smoothings.get(name)
            originals[name] = layer.weight.data
            weight = smoothed_weight(layer.weight.detach(), smoothing)
            layer.weight.data = weight if weights is None else rounded_weight(weight, weights, group)
            grid = Grid(16, signed=False) if wider and wider(name) else inputs
            hooks.append(layer.register_forward_pre_hook(_rounding(axis, grid, smoothing)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for name, weight in originals.items():
                self.layers[name].weight.data = weight


def _rounding(
    axis: int, grid: Grid | None, smoothing: Tensor | None
) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    """Return a hook that smooths a layer's input and, on a grid, rounds it."""

    def hook(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = smoothed_input(args[0], smoothing, axis)
        return (x if grid is None else TokenQuantizer(axis, grid).values(x),)

    return hook


def rounded_weight(weight: Tensor, grid: Grid, group: int | None) -> Tensor:
    """Return a weight on its grid, with a scale for each group of input channels where they fill groups."""
    groups = 1 if group is None or weight.shape[1] % group else weight.shape[1] // group
    return WeightQuantizer(weight_scales(weight, grid, groups), grid).values(weight.detach())


def main() -> None:
    """Print all tables."""
    trial = Trial(Workspace(Store(str(ROOT / "runs" / "rounding")), Terminal()).on("cpu"))

    @cache
    def every(_: str) -> bool:
        return True

    w8, w4, narrow = Grid(8, signed=True), Grid(4, signed=True), Grid(4, signed=True, narrow=True)
    a8, a6, a4 = (Grid(bits, signed=False) for bits in (8, 6, 4))
    shortcuts = KINDS["shortcut convolutions"]
    rows = {
        "W8": trial.ratio(w8),
        "W8, the first and the last layer too": trial.ratio(w8, chosen=every),
        "W4, 15 levels": trial.ratio(narrow),
        "W4, 16 levels": trial.ratio(w4),
        "W4, 16 levels, groups of 32": trial.ratio(w4, group=32),
        "W4, 16 levels, groups of 16": trial.ratio(w4, group=16),
        "A8": trial.ratio(None, a8),
        "A8, the first and the last layer too": trial.ratio(None, a8, chosen=every),
        "A8, shortcut convolutions A16": trial.ratio(None, a8, wider=shortcuts),
        "A6": trial.ratio(None, a6),
        "A4": trial.ratio(None, a4),
        "W8A8": trial.ratio(w8, a8),
        "W8A8, shortcut convolutions A16: `sdquant quantize`": trial.ratio(w8, a8, wider=shortcuts),
    }
    scaled = trial.smoothings("w8a8")
    everywhere = {"chosen": every, "smoothings": scaled}
    for bits, weights, inputs in (("W8A8", w8, a8), ("W4A8", w4, a8), ("W4A4", w4, a4)):
        smoothings = trial.smoothings(bits.lower())
        rows[f"{bits}, every layer"] = trial.ratio(weights, inputs, chosen=every)
        ratio = trial.ratio(weights, inputs, chosen=every, smoothings=smoothings)
        rows[f"{bits}, every layer, channels scaled"] = ratio
    ends_wider = trial.ratio(w8, a8, wider=lambda name: name in trial.ends, **everywhere)
    rows["W8A8, every layer, channels scaled, inputs of the first and the last layer A16"] = ends_wider
    rows["W8A8, channels scaled"] = trial.ratio(w8, a8, smoothings=scaled)
    print("\n| rounded | SNR, dB |\n|---|---|")
    for name, ratio in rows.items():
        print(f"| {name} | {ratio:.1f} |")
    print("\n| inputs of 8 bits in | SNR, dB |\n|---|---|")
    for name, chosen in KINDS.items():
        print(f"| {name} | {trial.ratio(None, a8, chosen=chosen):.1f} |")
    first, last = trial.ends
    parts: dict[str, Chosen] = {
        "the first convolution": lambda name: name == first,
        "the last convolution": lambda name: name == last,
        "shortcut convolutions": shortcuts,
        "all others": lambda name: name not in trial.ends and not shortcuts(name),
        "everything": every,
    }
    print("\n| rounded to 8 bits, channels scaled | weights, dB | inputs, dB |\n|---|---|---|")
    for name, chosen in parts.items():
        weights, inputs = (
            trial.ratio(*grids, chosen=chosen, smoothings=scaled) for grids in ((w8,), (None, a8))
        )
        print(f"| {name} | {weights:.1f} | {inputs:.1f} |")


if __name__ == "__main__":
    main()
