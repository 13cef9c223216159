"""The bar: OpenVINO's int8 (NNCF, W8A8) on the same UNet, beside torch and our folders, in one process.

    uv run --with openvino --with nncf python benchmarks/engines/openvino_int8.py MODEL FOLDER... --side 64

MODEL is a pipeline folder (tools/random_models); a FOLDER is what `sdquant quantize` or `sdquant export` made
of it, and its name that of its row. The int8 model is converted once, into runs/openvino. CPU seconds at one
thread, calls in turn, all in one process; they go into docs/benchmarks/engines.json, and
benchmarks/engines/run.py --page shows them.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from diffusers import UNet2DConditionModel

import sdquant_cli

assert sdquant_cli
ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs" / "openvino"
PAGE = ROOT / "docs" / "benchmarks" / "engines.json"


class Plain(torch.nn.Module):
    """The UNet as a function of three tensors."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.unet(x, timestep, tokens, return_dict=False)[0]


def inputs(side: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, 4, side, side, generator=generator),
        torch.tensor([1.0]),
        torch.randn(1, 77, 768, generator=generator),
    ]


def int8(model: Path) -> Path:
    """The converted and quantized model, made once."""
    import nncf

    path = RUNS / "int8.xml"
    if not path.exists():
        unet = UNet2DConditionModel.from_pretrained(model / "unet", dtype=torch.float32).eval()
        with torch.no_grad():
            converted = ov.convert_model(Plain(unet), example_input=tuple(inputs(32)))
        del unet
        samples = [[t.numpy() for t in inputs(32, seed)] for seed in range(3)]
        quantized = nncf.quantize(converted, nncf.Dataset(samples), subset_size=3)
        path.parent.mkdir(parents=True, exist_ok=True)
        ov.save_model(quantized, path, compress_to_fp16=False)
    return path


def calls(asked: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """All that is timed, by name, loaded."""
    x, t, tokens = (part.expand(asked.items, *part.shape[1:]) for part in inputs(asked.side))
    loaded = ov.Core().read_model(int8(asked.model))
    loaded.reshape({0: list(x.shape), 1: [asked.items], 2: list(tokens.shape)})
    made: dict[str, Callable[[], object]] = {}
    for hint in asked.hints:
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": hint}
        arrays = [np.ascontiguousarray(part) for part in (x, t, tokens)]
        made[f"OpenVINO int8, {hint}"] = partial(ov.compile_model(loaded, "CPU", options), arrays)
    for name in asked.dtypes:
        dtype = getattr(torch, name)
        for folder in (asked.model, *asked.folders):
            unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=dtype)
            quantizer = getattr(unet, "hf_quantizer", None)
            timesteps = quantizer.quantization_config.timesteps if quantizer else ()
            first = torch.tensor(timesteps[0] if timesteps else 1.0)
            kind = "torch" if folder is asked.model else f"sdquant {folder.name}"
            made[f"{kind}, {name}"] = partial(unet, x.to(dtype), first, tokens.to(dtype))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--side", type=int, default=64, help="of the latent")
    parser.add_argument("--items", type=int, default=1, help="of a call")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--hints", nargs="+", default=["f32", "bf16"], help="OpenVINO's precision")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of torch and sdquant")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    timed = calls(asked)
    taken: dict[str, list[float]] = {name: [] for name in timed}
    with torch.no_grad():
        for repeat in range(asked.repeats + 1):
            for name, call in timed.items():
                began = time.process_time()
                call()
                if repeat:  # the first prepares
                    taken[name].append(round(time.process_time() - began, 3))
                print(name, f"{time.process_time() - began:.3f}", flush=True)
    title = f"{asked.side} x {asked.side}, items: {asked.items}, {torch.backends.cpu.get_cpu_capability()}"
    found = json.loads(PAGE.read_text()) if PAGE.exists() else {"runs": {}}
    found.setdefault("beside", {})[title] = taken
    PAGE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
