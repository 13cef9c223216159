"""What an NVIDIA GPU computes with integers, and how fast: one script, under nine minutes on an H100.

    uv run python -m benchmarks.gpu.run                                # all parts
    uv run python -m benchmarks.gpu.run --parts kernels,unet           # by name
    uv run python -m benchmarks.gpu.run --device cpu --parts kernels   # kernels interpreted, tiny shapes

Each part is a process of its own with a limit in seconds; what it had measured when it was stopped is kept.
Writes gpu.json and gpu.md to --output (runs/gpu). Nothing is fetched: full-size networks have random weights,
made on the device, so their speed and memory are those of the real ones and their pictures are noise.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMITS = {"kernels": 90, "layers": 60, "unet": 230, "calibration": 90, "chain": 60}  # seconds; in this order
PEAKS = {"H100": (1979, 989), "H200": (1979, 989), "A100": (624, 312)}  # dense TOPS of int8, TFLOPS of bf16
INTERPRETED = ("kernels", "layers", "unet")  # on a CPU; the other parts compute as they do there
Row = dict[str, Any]
Save = Callable[[Row], None]


def seconds(device: str, run: Callable[[], object], repeats: int = 20) -> float:
    """The median time of a call, after three that do not count; one call where kernels are interpreted."""
    import torch

    if device == "cpu":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def card(device: str) -> Row:
    """What computes, and its dense peaks where they are known."""
    import torch
    import triton

    found = {"torch": torch.__version__, "triton": triton.__version__, "name": platform.processor() or "CPU"}
    if device == "cuda":
        found["name"] = torch.cuda.get_device_name()
        found["driver"] = _words(
            "nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"
        )
    peaks = next((peaks for name, peaks in PEAKS.items() if name in found["name"]), (None, None))
    return {**found, "int8 TOPS": peaks[0], "bf16 TFLOPS": peaks[1]}


def _words(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


SHAPES = {  # name -> input channels, output channels, kernel, images, height and width; tokens are 1x1
    "3x3 320, 64x64": (320, 320, 3, 2, 64),
    "3x3 640, 32x32": (640, 640, 3, 2, 32),
    "3x3 1280, 16x16": (1280, 1280, 3, 2, 16),
    "3x3 1280, 8x8": (1280, 1280, 3, 2, 8),
    "3x3 320, 128x128": (320, 320, 3, 2, 128),
    "3x3 640, 64x64": (640, 640, 3, 2, 64),
    "3x3 1280, 32x32": (1280, 1280, 3, 2, 32),
    "linear 320, 4096": (320, 320, 1, 2, 64),
    "linear 640 -> 5120, 4096": (640, 5120, 1, 2, 64),
    "linear 1280 -> 10240, 1024": (1280, 10240, 1, 2, 32),
    "linear 5120 -> 1280, 1024": (5120, 1280, 1, 2, 32),
}
TINY_SHAPES = {"3x3 33": (33, 20, 3, 1, 5), "linear 64 -> 40": (64, 40, 1, 1, 4)}


def layer_of(shape: tuple[int, ...], bits: str, per_token: bool, device: str) -> tuple[Any, Any, Any, Any]:
    """A packed layer with random codes, the floating-point one, an input in bf16, and its rows."""
    import torch
    from torch import nn

    from sdquant_cli.quant.format import NumberFormat
    from sdquant_cli.quant.rows import Rows
    from sdquant_cli.quant.state import rounded_to_nearest
    from sdquant_cli.runtime.layers import PackedSpec, packed
    from sdquant_cli.types import Bits

    inputs, outputs, kernel, items, side = shape
    form, width = NumberFormat(per_token=per_token, full_range=per_token), Bits.parse(bits)
    torch.manual_seed(0)
    with torch.device(device):
        plain = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        x = torch.randn(items, inputs, side, side, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
    twin = packed(plain, PackedSpec(width, form, 0 if per_token else 1, text_fed=False), Rows([1.0]))
    saved = rounded_to_nearest(plain.weight.detach(), width, form)
    if not per_token:
        table = torch.tensor([0.03], device=device), torch.tensor([120], dtype=torch.int32, device=device)
        saved = replace(saved, activation_step=table[0], activation_zero=table[1])
    twin.fill(saved)
    twin.requires_grad_(False)
    plain = plain.requires_grad_(False).to(torch.bfloat16, memory_format=torch.channels_last)
    return twin, plain, x, x.permute(0, 2, 3, 1).contiguous()


def kernels(device: str, save: Save) -> None:
    """Each kernel: its largest error against fp64, its time by tile, beside torch's in bf16."""
    import torch
    from torch.nn import functional as F

    from sdquant_cli.quant.weights import dequantized_weight
    from sdquant_cli.runtime import engines
    from sdquant_cli.runtime.cuda import products, row_codes

    shapes, peaks = TINY_SHAPES if device == "cpu" else SHAPES, card(device)
    for name, shape in shapes.items():
        for bits, per_token in (("w8a8", True), ("w4a8", True), ("w8a8", False)):
            twin, plain, x, rows = layer_of(shape, bits, per_token, device)
            twin.use(engines.integer)
            twin.prepared()
            quantizer = twin.quantizer()
            codes = row_codes.codes_of(rows, quantizer, None)
            product, tiles = products.Product(twin), {}
            y = product(codes, torch.float32).permute(0, 3, 1, 2).double()
            weight = dequantized_weight(twin.codes(), twin.weight_step.double())
            bias, moves = twin.bias.double(), (twin.stride, twin.padding)
            rounded = quantizer.values(x).double()
            error = (y - F.conv2d(rounded, weight, bias, *moves)).abs().max()
            largest = F.conv2d(rounded.abs(), weight.abs(), bias.abs(), *moves).max()
            for tile in products.TILES:
                with _tile(products, tile):
                    tiles["x".join(map(str, tile))] = seconds(
                        device, lambda p=product, c=codes: p(c, torch.bfloat16)
                    )
            operations = 2 * y.numel() * weight[0].numel()
            best = min(tiles.values())
            row = {
                "shape": name,
                "bits": bits,
                "scales": "token" if per_token else "static",
                "error": float(error / largest),
                "product s": seconds(device, lambda p=product, c=codes: p(c, torch.bfloat16)),
                "codes s": seconds(device, lambda r=rows, q=quantizer: row_codes.codes_of(r, q, None)),
                "bf16 s": seconds(device, lambda m=plain, i=x: m(i)),
                "tiles": tiles,
                "TOPS": operations / best / 1e12,
            }
            if peaks["int8 TOPS"]:
                row["of peak"] = row["TOPS"] / peaks["int8 TOPS"]
            save(row)


class _tile:  # noqa: N801
    """Products in tiles of one shape."""

    def __init__(self, products: Any, tile: tuple[int, int]) -> None:
        self.products, self.tile = products, tile

    def __enter__(self) -> None:
        self.original = self.products.tile_of
        self.products.tile_of = lambda *_: self.tile

    def __exit__(self, *_: object) -> None:
        self.products.tile_of = self.original


def layers(device: str, save: Save) -> None:
    """Packed layers, rounding of their inputs included, beside torch's in bf16."""
    import torch

    from sdquant_cli.runtime import engines

    for name, shape in (TINY_SHAPES if device == "cpu" else SHAPES).items():
        for bits in ("w8a8", "w4a8"):
            twin, plain, x, _ = layer_of(shape, bits, True, device)
            row: Row = {"shape": name, "bits": bits}
            with torch.no_grad():
                twin.use(engines.integer)
                row["integer s"] = seconds(device, lambda m=twin, i=x: m(i))
                twin.use(engines.dequantized)
                row["dequantized s"] = seconds(device, lambda m=twin, i=x: m(i))
                row["bf16 s"] = seconds(device, lambda m=plain, i=x: m(i))
            save(row)


def networks(device: str) -> dict[str, tuple[dict[str, Any], int, int]]:
    """UNets by name: configuration, side of latents, tokens of the text."""
    from tools.random_models.configurations import PIPELINES, TINY

    if device == "cpu":
        config = PIPELINES["sd-v1-4"][1]["unet"][1] | TINY["sd-v1-4"]["unet"]
        return {"tiny": (config, 8, 5)}
    sides = {"sd-v1-4": 64, "sdxl": 128}
    return {name: (PIPELINES[name][1]["unet"][1], side, 77) for name, side in sides.items()}


def unet_of(config: dict[str, Any], device: str) -> Any:
    """A UNet in bf16 with random weights, made on the device."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return UNet2DConditionModel(**config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def pack(unet: Any, bits: str) -> Any:
    """Pack a UNet's layers in place, as `SdquantConfig(bits=...)` does while diffusers loads."""
    from sdquant_cli import SdquantConfig
    from sdquant_cli.models.layers import quantizable_layers
    from sdquant_cli.quant.state import rounded_to_nearest
    from sdquant_cli.runtime.engines import engine_for
    from sdquant_cli.runtime.network import pack_network, packed_layers, use_engine

    weights = {name: layer.weight.detach() for name, layer in quantizable_layers(unet).items()}
    layout = SdquantConfig(bits=bits).for_floating_point(list(weights)).layout(list(weights))
    pack_network(unet, layout)
    for name, layer in packed_layers(unet).items():
        layer.fill(rounded_to_nearest(weights.pop(name), layer.bits, layer.form))
    use_engine(unet, engine_for(None))
    return unet.eval().requires_grad_(False)


def call_of(unet: Any, items: int, side: int, tokens: int, device: str) -> Callable[[], Any]:
    """A call of a UNet on random numbers, which stay where they are."""
    import torch

    config = unet.config
    with torch.device(device):
        x = torch.randn(items, config.in_channels, side, side, dtype=torch.bfloat16)
        text = torch.randn(items, tokens, config.cross_attention_dim, dtype=torch.bfloat16)
        step, added = torch.tensor([500.0]), None
        if config.addition_embed_type == "text_time":
            width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            pooled = torch.randn(items, width, dtype=torch.bfloat16)
            added = {"text_embeds": pooled, "time_ids": torch.ones(items, 6, dtype=torch.bfloat16)}

    def run() -> Any:
        with torch.no_grad():
            return unet(x, step, text, added_cond_kwargs=added, return_dict=False)[0]

    return run


def as_graph(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same call, recorded once and replayed: no kernel is launched by Python."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def weight_bytes(unet: Any) -> int:
    """Bytes of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*unet.parameters(), *unet.buffers()))


def unet(device: str, save: Save) -> None:
    """UNets of SD v1-4 and SDXL at batch 1 and 2: integer by launches and as a graph, beside bf16."""
    import torch

    for name, (config, side, tokens) in networks(device).items():
        for bits in (None, "w8a8", "w4a8"):
            network = unet_of(config, device)
            network = network.to(memory_format=torch.channels_last) if bits is None else pack(network, bits)
            for items in (1, 2) if device == "cuda" else (1,):
                run = call_of(network, items, side, tokens, device)
                row: Row = {"network": name, "bits": bits or "bf16", "items": items, "way": "launched"}
                save({**row, "s": seconds(device, run), **memory(device, network)})
                if device == "cuda":
                    save({**row, "way": "CUDA graph", "s": seconds(device, as_graph(run))})
            del network
    for name, (config, side, tokens) in networks(device).items() if device == "cuda" else ():
        network = torch.compile(unet_of(config, device).to(memory_format=torch.channels_last))
        for items in (2, 1):
            run = call_of(network, items, side, tokens, device)
            began = time.perf_counter()
            run()
            row = {"network": name, "bits": "bf16", "items": items, "compile s": time.perf_counter() - began}
            save({**row, "way": "compiled, CUDA graph", "s": seconds(device, as_graph(run))})


def memory(device: str, network: Any) -> Row:
    """Bytes of weights, and the most that was allocated since the last question."""
    import torch

    row: Row = {"weights GB": weight_bytes(network) / 1e9}
    if device == "cuda":
        row["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
    return row


def calibration(device: str, save: Save) -> None:
    """Iterations of calibration at the paper's batch: without quantizers, with them, and with --amp.

    The last kind in both layouts of memory, since `calibrate` does not hold its networks channels last.
    """
    import torch

    from benchmarks import iteration as cost

    latents, side = (1, 8) if device == "cpu" else (12, 64)
    for kind, layout in [*((kind, "as usual") for kind in cost.KINDS), (cost.KINDS[-1], "channels last")]:
        config, _, tokens = next(iter(networks(device).values()))
        teacher, student, items = training(config, (latents, side, tokens), kind, device)
        student.enable_gradient_checkpointing()
        if layout == "channels last":
            for network in (teacher, student):
                network.to(memory_format=torch.channels_last)
        run = lambda t=teacher, s=student, i=items, k=kind: cost.iteration(t, s, i, k, device)  # noqa: E731
        row = {"kind": kind, "memory": layout, "latents": latents, "side": side, "checkpointing": True}
        save({**row, "s": seconds(device, run, repeats=5), **memory(device, student)})
        del teacher, student, run
    if device == "cuda":
        torch.cuda.empty_cache()


def training(config: dict[str, Any], size: tuple[int, int, int], kind: str, device: str) -> tuple[Any, ...]:
    """A teacher in bf16, a student with quantizers of 50 steps, all in training, and items."""
    import torch

    from benchmarks import iteration as cost
    from sdquant_cli.calibration.items import Items
    from sdquant_cli.models.conditioning import Conditioning
    from sdquant_cli.models.layers import quantizable_layers
    from sdquant_cli.quant.grid import Grid
    from sdquant_cli.quant.modules import LayerState
    from sdquant_cli.quant.rows import Rows
    from sdquant_cli.quant.swap import swap

    latents, side, tokens = size
    teacher, rows = unet_of(config, device), Rows(cost.TIMESTEPS)
    student = unet_of(config, device).float()
    rows.follow(student)
    steps, grids = len(cost.TIMESTEPS), (Grid(4, signed=True), Grid(8, signed=False))
    tables = torch.full([steps], 0.03, device=device), torch.full([steps], 120.0, device=device)
    states = {}
    for name, layer in quantizable_layers(student).items() if kind != "without" else ():
        scale = layer.weight.detach().flatten(1).abs().amax(1) / grids[0].high
        states[name] = LayerState(scale, *tables, *grids)
    swap(student, states, rows, weights_on_grid=False)
    for layer in quantizable_layers(student).values():
        layer.weight.requires_grad_(True)
    texts = Conditioning(torch.randn(2, tokens, config["cross_attention_dim"]).half())
    x, text = torch.randn(latents, 4, side, side).half(), torch.ones(latents, dtype=torch.long)
    row, timesteps = torch.arange(latents) * steps // latents, torch.tensor(cost.TIMESTEPS)
    items = Items(x, row, text, texts, timesteps, guidance_scale=7.5)
    return teacher, student.train(), items


def chain(device: str, save: Save) -> None:
    """The embedded model's chain: pictures of the same state by integers on the GPU and on the CPU."""
    import shutil
    import tempfile

    import torch

    from sdquant_cli.artifacts.workspace import Workspace
    from sdquant_cli.metrics.ratios import psnr
    from sdquant_cli.options.requests import CalibrateRequest, GenerateRequest, SampleRequest
    from sdquant_cli.stages import calibrate, generate, sample
    from sdquant_cli.store import Store

    prompts = ROOT / "examples" / "prompts" / "shapes-test.txt"
    count, steps = (2, 2) if device == "cpu" else (16, 10)
    with tempfile.TemporaryDirectory() as folder:
        calibrated = Path(folder, "calibrated")
        workspace = Workspace(Store(str(calibrated)))
        told: Row = {"prompts": prompts, "limit": count, "steps": steps, "device": "cpu"}
        sample.run(SampleRequest(**told), workspace)
        calibrate.run(CalibrateRequest(method="rtn", bits="w8a8", device="cpu"), workspace)
        told = {"prompts": prompts, "limit": count, "engine": "integer", "seed": 1}
        ways = {
            "cpu": ("cpu", count),
            "cpu, other batches": ("cpu", count // 2),
            f"{device}, integers": (device, count),
        }
        pictures = {}
        for name, (where, batch) in ways.items():
            store = shutil.copytree(calibrated, Path(folder, name))  # pictures are the same artifact anywhere
            began = time.perf_counter()
            request = GenerateRequest(**{**told, "device": where, "micro_batch": str(batch)})
            images = generate.run(request, Workspace(Store(str(store))))
            pictures[name] = torch.from_numpy(images.read("image"))
            save({"way": name, "pictures": count, "s": time.perf_counter() - began})
    for name in list(ways)[1:]:
        apart = psnr(pictures[name], pictures["cpu"]).clamp(max=100)
        save({"way": name, "median PSNR against the CPU, dB": float(apart.median())})


PARTS: dict[str, Callable[[str, Save], None]] = {
    "kernels": kernels,
    "layers": layers,
    "unet": unet,
    "calibration": calibration,
    "chain": chain,
}


def run_part(name: str, device: str, path: Path) -> None:
    """In a process of its own: write the rows of a part, after each of them."""
    if device == "cpu":
        from sdquant_cli.native import cuda

        cuda.interpreted = name in INTERPRETED
    rows: list[Row] = []

    def save(row: Row) -> None:
        rows.append(row)
        path.write_text(json.dumps(rows))

    PARTS[name](device, save)


def measured(name: str, device: str, folder: Path) -> Row:
    """The rows of a part, run in a process of its own, and what stopped it."""
    path = folder / f"{name}.json"
    path.unlink(missing_ok=True)
    variables = {**os.environ, "TRITON_INTERPRET": str(int(device == "cpu"))}
    command = [sys.executable, "-m", "benchmarks.gpu.run", "--device", device, "--output", str(folder)]
    began, problem = time.perf_counter(), None
    try:
        limit = LIMITS[name]
        options: Row = {"cwd": ROOT, "env": variables, "timeout": limit, "text": True}
        done = subprocess.run([*command, "--part", name], check=False, stderr=subprocess.PIPE, **options)
        if done.returncode:
            problem = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        problem = f"stopped after {limit} s"
    rows = json.loads(path.read_text()) if path.exists() else []
    return {"rows": rows, "seconds": time.perf_counter() - began, "problem": problem}


def page(found: Row) -> str:
    """A table for each part."""
    lines = [f"# {found['card']['name']}", "", ", ".join(f"{k} {v}" for k, v in found["card"].items() if v)]
    for name, part in found["parts"].items():
        lines += ["", f"## {name}", ""]
        lines += [f"{part['problem']}.", ""] if part["problem"] else []
        columns = list(dict.fromkeys(column for row in part["rows"] for column in row))
        if columns:
            lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for row in part["rows"]:
            lines.append(f"| {' | '.join(cell(row.get(column, '')) for column in columns)} |")
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(part)}" for key, part in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    asked.output.mkdir(parents=True, exist_ok=True)
    if asked.part:
        run_part(asked.part, asked.device, asked.output / f"{asked.part}.json")
        return 0
    names = asked.parts.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"--parts {','.join(sorted(unknown))}: expected {', '.join(PARTS)}")
    if asked.device == "cuda":
        import torch

        from sdquant_cli.native.cuda.support import problem

        if reason := problem(torch.device("cuda", 0)):
            print(f"--device cuda: {reason}", file=sys.stderr)
            return 5
    found: Row = {"card": card(asked.device), "parts": {}}
    for name in names:
        found["parts"][name] = measured(name, asked.device, asked.output)
        (asked.output / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        (asked.output / "gpu.md").write_text(page(found))
    print((asked.output / "gpu.md").read_text())
    return int(any(part["problem"] for part in found["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
