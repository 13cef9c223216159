"""Each distinct layer of SD v1-4's UNet, and the parts of a call: docs/benchmarks/engines.json.

    export OMP_NUM_THREADS=1
    uv run python benchmarks/engines/layers.py --parts runs/w8a8 runs/w4a8

Random weights, one item in fp32, one thread; a layer's time is of rounding its input and of the product,
the lowest of the repeats, by CPU seconds. oneDNN computes the same layer with one calibrated scale. The peak
is of the kernels' own products on registers (peak.c). FOLDERs are what `sdquant quantize` wrote;
benchmarks/engines/run.py --page shows all.
"""

import argparse
import ctypes
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from sdquant_cli.models.layers import quantizable_layers
from sdquant_cli.native import codes, products
from sdquant_cli.native.build import FLAGS
from sdquant_cli.quant.format import PAPER, NumberFormat
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.state import rounded_to_nearest
from sdquant_cli.runtime import blocks, engines, onednn
from sdquant_cli.runtime.directory import load_denoiser
from sdquant_cli.runtime.layers import LayerKernel, PackedSpec, packed
from sdquant_cli.types import Bits
from tools.random_models.configurations import PIPELINES

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "engines.json"
TOKENS = NumberFormat(per_token=True, full_range=True)
TOKENS_OF_TEXT = 77


class Shape(NamedTuple):
    """A layer and its input, one item."""

    kernel: int  # 0: linear
    stride: int
    inputs: int
    outputs: int
    rows: tuple[int, ...]  # height and width, or tokens

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        rows = 1
        for size in self.rows:
            rows *= size // self.stride
        return 2 * rows * self.inputs * self.outputs * max(1, self.kernel) ** 2

    def layer(self) -> nn.Linear | nn.Conv2d:
        """The layer, random weights."""
        if not self.kernel:
            return nn.Linear(self.inputs, self.outputs)
        return nn.Conv2d(self.inputs, self.outputs, self.kernel, self.stride, self.kernel // 2)

    def input(self) -> torch.Tensor:
        """A random input, channels last in memory."""
        if not self.kernel:
            return torch.randn(1, *self.rows, self.inputs)
        return torch.randn(1, self.inputs, *self.rows).to(memory_format=torch.channels_last)

    def named(self) -> str:
        """The shape in words."""
        kind = f"{self.kernel}x{self.kernel}" if self.kernel else "linear"
        kind += f", stride {self.stride}" if self.stride > 1 else ""
        return f"{kind}, {self.inputs} to {self.outputs}, {' x '.join(map(str, self.rows))}"


def shapes(side: int) -> Counter[Shape]:
    """The distinct shapes of all quantizable layers, and how many have each."""
    _, config = PIPELINES["sd-v1-4"][1]["unet"]
    found: Counter[Shape] = Counter()

    def count(layer: nn.Module, inputs: tuple[torch.Tensor], _: object) -> None:
        x = inputs[0]
        if isinstance(layer, nn.Conv2d):
            kernel, stride = layer.kernel_size[0], layer.stride[0]
            found[Shape(kernel, stride, layer.in_channels, layer.out_channels, tuple(x.shape[2:]))] += 1
        elif isinstance(layer, nn.Linear):
            found[Shape(0, 1, layer.in_features, layer.out_features, tuple(x.shape[1:-1]))] += 1

    with torch.device("meta"), torch.no_grad():
        unet = UNet2DConditionModel.from_config(config)
        for layer in quantizable_layers(unet).values():
            layer.register_forward_hook(count)
        x, text = torch.empty(1, 4, side, side), torch.empty(1, TOKENS_OF_TEXT, config["cross_attention_dim"])
        unet(x, torch.empty(1), text)
    return found


def lowest(call: Callable[[], object], repeats: int) -> float:
    """The lowest CPU seconds of a call; the first prepares."""
    call()
    taken = []
    for _ in range(repeats):
        began = time.thread_time()
        call()
        taken.append(time.thread_time() - began)
    return min(taken)


def quantized(layer: nn.Linear | nn.Conv2d, bits: str, form: NumberFormat, engine: LayerKernel) -> nn.Module:
    """The layer with packed weights."""
    spec = PackedSpec(Bits.parse(bits), form, 0 if form.per_token else 1, False, None)
    twin = packed(layer, spec, Rows([1.0]))
    saved = rounded_to_nearest(layer.weight.data, spec.bits, form)
    if not form.per_token:
        table = {"activation_step": torch.tensor([0.03]), "activation_zero": torch.tensor([128])}
        saved = replace(saved, **table)
    twin.fill(saved)
    twin.use(engine)
    return twin


def seconds(shape: Shape, repeats: int) -> dict[str, float]:
    """CPU seconds of a layer by each way to compute it."""
    layer, x = shape.layer(), shape.input()
    ways = {
        "torch fp32": layer,
        "oneDNN int8": quantized(layer, "w8a8", PAPER, onednn.integer),
        "w8a8": quantized(layer, "w8a8", TOKENS, engines.integer),
        "w4a8": quantized(layer, "w4a8", TOKENS, engines.integer),
    }
    return {name: lowest(partial(way, x), repeats) for name, way in ways.items()}


def peaks() -> dict[str, float]:
    """The highest rates of the kernels' products, in T op/s."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak.c")
        subprocess.run(["cc", *FLAGS, "-shared", "-fPIC", "-o", library, source], check=True)
        loaded = ctypes.CDLL(str(library))
    rates = {}
    for bits in (8, 4):
        peak = getattr(loaded, f"peak_of_{bits}_bits")
        peak.restype = ctypes.c_double
        rates[f"w{bits}a8"] = max(peak() for _ in range(3))
    return rates


@contextmanager
def timed(module: ModuleType, name: str, spent: Counter[str]) -> Iterator[None]:
    """Add the CPU seconds of a module's function to `spent`."""
    function = getattr(module, name)

    def measured(*given: object, **options: object) -> object:
        began = time.thread_time()
        result = function(*given, **options)
        spent[name] += time.thread_time() - began
        return result

    setattr(module, name, measured)
    try:
        yield
    finally:
        setattr(module, name, function)


def parts(folder: Path, side: int) -> dict[str, float]:
    """CPU seconds of a call of a folder's UNet by part, of the fastest of three."""
    unet, _ = load_denoiser(folder)
    arguments = (torch.randn(1, 4, side, side), torch.tensor(1.0), torch.randn(1, TOKENS_OF_TEXT, 768))
    taken: list[dict[str, float]] = []
    for _ in range(4):
        spent: Counter[str] = Counter()
        with (
            torch.no_grad(),
            timed(products, "product", spent),
            timed(codes, "codes", spent),
            timed(codes, "group_norm", spent),
            timed(blocks, "attended", spent),
        ):
            began = time.thread_time()
            unet(*arguments)
            whole = time.thread_time() - began
        taken.append({**spent, "rest": whole - sum(spent.values())})
    return min(taken[1:], key=lambda spent: sum(spent.values()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 32], help="of the latent, for --parts")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", type=Path, nargs="*", default=[], help="folders")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    document = json.loads(PAGE.read_text())
    cpu = torch.backends.cpu.get_cpu_capability()
    of_parts = document.setdefault("parts", {})
    for side in arguments.sides:
        for folder in arguments.parts:
            of_parts[f"{folder.name}, {side} x {side}, {cpu}"] = parts(folder, side)
    rows = []
    with torch.no_grad():
        for shape, count in sorted(shapes(arguments.sides[0]).items()):
            taken = seconds(shape, arguments.repeats)
            rows.append({"layer": shape.named(), "count": count, "operations": shape.operations, **taken})
            print(rows[-1], flush=True)
    document.setdefault("layers", {})[cpu] = {"peak": peaks(), "rows": rows}
    PAGE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
