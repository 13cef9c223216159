"""Pictures of exported graphs beside those of our engines: PSNR to floating point, embedded model.

    uv run python benchmarks/graphs.py --count 16 --steps 4

Roundings with calibrated scales, at 7 and 8 bits of weights, drawn in the runtime that each graph is for.
Prints a table, which docs/how-to/export.md quotes; the store is runs/graphs, and graphs are written once.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import sdquant_cli
from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.cli.render import Terminal
from sdquant_cli.metrics.ratios import psnr
from sdquant_cli.options.requests import CalibrateRequest, ExportRequest, GenerateRequest, SampleRequest
from sdquant_cli.stages import calibrate, export, generate, sample
from sdquant_cli.store import Store
from sdquant_cli.types import Engine, ExportFormat

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "graphs"
PROMPTS = ROOT / "examples" / "prompts"
FORMATS = (ExportFormat.OPENVINO, ExportFormat.ONNX)
ENGINES = (Engine.SIMULATED, Engine.INTEGER)


def mean_psnr(images: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean PSNR in dB of pictures (N,H,W,3) uint8."""
    return float(psnr(torch.from_numpy(images), torch.from_numpy(reference)).mean())


def drawn(workspace: Workspace, count: int, **options: object) -> np.ndarray:
    """Return pictures that `generate` draws."""
    request = GenerateRequest(prompts=PROMPTS / "shapes-test.txt", limit=count, **options)
    return generate.run(request, workspace).read("image")


def drawn_by_graph(folder: Path, count: int, steps: int, scale: float) -> np.ndarray:
    """Return pictures of the same prompts and noise by an exported folder."""
    pipeline = sdquant_cli.load(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for index, prompt in enumerate((PROMPTS / "shapes-test.txt").read_text().splitlines()[:count]):
        noise = sdquant_cli.generator(0, index)
        shown = pipeline(prompt, num_inference_steps=steps, guidance_scale=scale, generator=noise).images[0]
        images.append(np.array(shown))
    return np.stack(images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=16, help="pictures")
    parser.add_argument("--steps", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    workspace = Workspace(Store(str(RUNS / "store")), Terminal())
    latents = sample.run(
        SampleRequest(
            prompts=PROMPTS / "shapes-train.txt", limit=16, per_prompt=asked.steps, steps=asked.steps
        ),
        workspace,
    )
    rows = []
    for bits in ("w7a8", "w8a8"):
        request = CalibrateRequest(method="rtn", bits=bits, activations="per-step", edges="none")
        state = f"quant-state/{calibrate.run(request, workspace).manifest.key}"
        reference = drawn(workspace, asked.count, model="fp")
        row = [mean_psnr(drawn(workspace, asked.count, state=state, engine=e), reference) for e in ENGINES]
        for form in FORMATS:
            folder = RUNS / f"{state.removeprefix('quant-state/')}-{form}"
            if not folder.exists():
                export.run(ExportRequest(output=folder, format=form, state=state), workspace)
            scale = latents.spec.setting.guidance_scale
            row.append(mean_psnr(drawn_by_graph(folder, asked.count, asked.steps, scale), reference))
        rows.append(f"| {bits} | {' | '.join(f'{value:.1f}' for value in row)} |")
    print(
        "| bits | simulated | our integers | OpenVINO | ONNX Runtime |",
        "|---|---|---|---|---|",
        *rows,
        sep="\n",
    )


if __name__ == "__main__":
    main()
