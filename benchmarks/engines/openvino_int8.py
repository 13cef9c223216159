"""The bar: OpenVINO's int8 (NNCF, W8A8) on the same UNet, beside our exported folder, in one process.

    uv run --with openvino --with nncf python benchmarks/engines/openvino_int8.py MODEL EXPORTED --side 64

MODEL is a pipeline folder (tools/random_models), EXPORTED what `sdquant export` made of it. The int8 model is
converted once, into runs/openvino. CPU seconds at one thread, calls in turn; the medians go into
docs/benchmarks/engines.json, and benchmarks/engines/run.py --page shows them.
"""

import argparse
import json
import statistics
import time
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("exported", type=Path)
    parser.add_argument("--side", type=int, default=64, help="of the latent")
    parser.add_argument("--repeats", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = int8(asked.model)
    loaded = ov.Core().read_model(path)
    x, t, tokens = inputs(asked.side)
    loaded.reshape({0: list(x.shape), 1: [1], 2: list(tokens.shape)})
    calls = {}
    for hint in ("f32", "bf16"):
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": hint}
        compiled = ov.compile_model(loaded, "CPU", options)
        arrays = [np.asarray(part) for part in (x, t, tokens)]
        calls[f"OpenVINO int8, {hint}"] = partial(compiled, arrays)
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        unet = UNet2DConditionModel.from_pretrained(asked.exported / "unet", dtype=dtype)
        first = torch.tensor([float(unet.hf_quantizer.quantization_config.timesteps[0])])
        told = [x.to(dtype), first, tokens.to(dtype)]
        calls[f"sdquant integer, {name}"] = partial(unet, *told)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for repeat in range(asked.repeats + 1):
            for name, call in calls.items():
                began = time.process_time()
                call()
                if repeat:  # the first prepares
                    taken[name].append(time.process_time() - began)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    print(medians)
    found = json.loads(PAGE.read_text()) if PAGE.exists() else {"runs": {}}
    found.setdefault("openvino", {})[str(asked.side)] = medians
    PAGE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
