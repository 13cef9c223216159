"""Puts the trained parts together as the embedded model, in fp16, where the package finds it.

`python -m tools.train_shapes.assemble`
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from sdquant_cli.runtime.directory import set_dtype

from .scenes import draw_scenes
from .training import RUNS
from .unet import SCHEDULER

TARGET = Path("src/sdquant_cli/models/shapes")
EXAMPLES = Path("examples/prompts")
SETS = {  # name in `examples/`: split, seed and size
    "heldout": ("heldout", 101, 500),
    "unseen": ("unseen", 102, 500),
    "train": ("train", 103, 256),
    "many": ("train", 104, 2048),
}
TEST_SEED, TEST_SIZE = 105, 500
DEFAULT_PROMPTS = 64  # to draw where no prompts are named, and to calibrate the demo


def write_prompts() -> None:
    """The prompt files of `examples/`: held-out captions, unseen combinations, training captions."""
    EXAMPLES.mkdir(parents=True, exist_ok=True)
    files = {name: captions_of(*choice) for name, choice in SETS.items()}
    for name, captions in (files | {"test": new_captions(files["heldout"])}).items():
        (EXAMPLES / f"shapes-{name}.txt").write_text("\n".join(captions) + "\n")


def captions_of(split: str, seed: int, count: int) -> list[str]:
    """The captions of random scenes of a split."""
    return [scene.caption for scene in draw_scenes(count, split, seed)]


def new_captions(heldout: list[str]) -> list[str]:
    """New captions of the training distribution, all different, none of them among `heldout`."""
    drawn = dict.fromkeys(captions_of("heldout", TEST_SEED, 2 * TEST_SIZE))
    return [caption for caption in drawn if caption not in heldout][:TEST_SIZE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--guidance-scale", type=float, default=3.0, help="the one at which the model draws best"
    )
    args = parser.parse_args()
    shutil.rmtree(TARGET, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(RUNS / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(RUNS / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(RUNS / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(RUNS / "unet"),
        scheduler=PNDMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(TARGET)
    set_dtype(TARGET / "text_encoder" / "config.json", "float32")
    CLIPModel.from_pretrained(RUNS / "clip").half().save_pretrained(TARGET / "clip")
    CLIPTokenizer.from_pretrained(RUNS / "tokenizer").save_pretrained(TARGET / "clip")
    write_prompts()
    for split, name in (("heldout", "prompts.txt"), ("train", "calibration.txt")):
        captions = (EXAMPLES / f"shapes-{split}.txt").read_text().splitlines()
        (TARGET / name).write_text("\n".join(captions[:DEFAULT_PROMPTS]) + "\n")
    defaults = {"guidance_scale": args.guidance_scale, "steps": 50, "prompts": "prompts.txt"}
    (TARGET / "sdquant.json").write_text(json.dumps(defaults, indent=1) + "\n")
    size = sum(p.stat().st_size for p in TARGET.rglob("*") if p.is_file())
    print(f"{TARGET}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
