"""Size and PSNR of folders with packed text encoder and autoencoder, each alone and together.

    uv run python benchmarks/components.py

Prints the table of docs/how-to/small-folders.md: folders that `sdquant quantize shapes` writes with other
`--components`, the bytes of their weight files, and the PSNR of their pictures to the floating-point
model's, from the same prompts and noise. Pictures are drawn by diffusers' pipeline.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

import sdquant_cli
from sdquant_cli.events import SILENT
from sdquant_cli.metrics.ratios import psnr
from sdquant_cli.models.source import EMBEDDED_FOLDER
from sdquant_cli.options.requests import QuantizeRequest
from sdquant_cli.prompts import read_prompts
from sdquant_cli.stages import quantize

PROMPTS = Path(__file__).parents[1] / "examples/prompts/shapes-heldout.txt"
SEED, AT_ONCE = 1000, 8
FOLDERS: tuple[dict[str, object], ...] = (
    {"components": ("text_encoder",), "bits": "w8a8"},
    {"components": ("text_encoder",), "bits": "w4a8"},
    {"components": ("text_encoder",), "bits": "w4a8", "group_size": 32},
    {"components": ("vae",)},
    {"components": ("vae=w8a8",)},
    {"components": ("vae=w4a16",), "group_size": 16},
    {"components": ("unet",), "bits": "w8a8"},
    {"components": ("all",), "bits": "w8a8"},
    {"components": ("unet",), "bits": "w4a8", "group_size": 32},
    {"components": ("all",), "bits": "w4a8", "group_size": 32},
)


def draw(folder: Path, prompts: list[str], steps: int) -> Tensor:
    """Pictures (N,H,W,3) uint8 of a pipeline."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    drawn = []
    for first in range(0, len(prompts), AT_ONCE):
        texts = prompts[first : first + AT_ONCE]
        noise = [sdquant_cli.generator(SEED, first + i) for i in range(len(texts))]
        drawn += pipeline(texts, num_inference_steps=steps, guidance_scale=3.0, generator=noise).images
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in drawn]))


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("*/*.safetensors")) / 1e6


def line(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    prompts = list(read_prompts(PROMPTS, asked.prompts).prompts)
    reference = draw(EMBEDDED_FOLDER, prompts, asked.steps)
    line("`quantize shapes ...`", "weights, MB", "PSNR, dB: mean", "lowest")
    line("---", "---", "---", "---")
    line("the model", f"{megabytes(EMBEDDED_FOLDER):.2f}", "", "")
    for options in FOLDERS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            quantize.run(QuantizeRequest(model="shapes", output=folder, **options), SILENT)
            ratios = psnr(draw(folder, prompts, asked.steps), reference)
            words = [f"--{name.replace('_', '-')} {words_of(value)}" for name, value in options.items()]
            line(
                f"`{' '.join(words)}`",
                f"{megabytes(folder):.2f}",
                f"{ratios.mean():.1f}",
                f"{ratios.min():.1f}",
            )


def words_of(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    main()
