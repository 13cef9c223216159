"""Measures how well the embedded model draws, for docs/reference/embedded-model.md and its picture.

`python -m tools.train_shapes.quality --split heldout` prints the table's rows for one split;
`--sweep` compares guidance scales; `--picture FILE` draws 64 pictures on one sheet.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sdquant_cli.artifacts.workspace import Workspace
from sdquant_cli.metrics.features import clip_of_folder
from sdquant_cli.models.load import EMBEDDED, EMBEDDED_FOLDER, find_model
from sdquant_cli.options.requests import GenerateRequest
from sdquant_cli.stages import generate
from sdquant_cli.store import Store

from .scenes import COLOURS, Scene, draw_scenes, parse, render, shade
from .vae import heldout_psnr

CHOICES = 32
BORDER = 3  # pixels around a picture that no object reaches
STORE = "runs/quality"
SWEEP = (2.0, 3.0, 4.0, 5.0)
MIN_OBJECT = 12  # pixels; the smallest star covers about 45


def nearest(pixels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Index of the palette colour nearest to each pixel (...,3), both in 0..1."""
    return np.square(pixels[..., None, :] - palette).sum(-1).argmin(-1)


def colours_right(image: np.ndarray, scene: Scene) -> tuple[bool, bool]:
    """Whether the background and all objects of a picture (H,W,3) uint8 have their colours."""
    pixels, names = image / 255.0, list(COLOURS)
    both = np.array([COLOURS[name] for name in names] + [shade(name) for name in names])
    edge = np.ones(image.shape[:2], bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    votes = np.bincount(nearest(pixels[edge], both) % len(names), minlength=len(names))
    background = names.index(scene.colour)
    # objects: base colours only, after taking away what is background in either tone
    tones = np.vstack([both[: len(names)], both[len(names) + background]])
    found = nearest(pixels[~edge], tones)
    counts = np.bincount(np.where(found == len(names), background, found), minlength=len(names))
    counts[background] = 0
    wanted = {names.index(thing.colour) for thing in scene.things}
    top = set(np.argsort(-counts)[: len(wanted)].tolist())
    return bool(votes.argmax() == background), top == wanted and min(counts[list(wanted)]) >= MIN_OBJECT


def caption_picked(images: np.ndarray, captions: list[str]) -> float:
    """How often the embedded CLIP finds a picture's caption among CHOICES."""
    clip = clip_of_folder(EMBEDDED_FOLDER / "clip", torch.device("cpu"))
    texts = clip.of_texts(captions)
    likeness = clip.of_images(images) @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T
    n = len(captions)
    return float(np.mean([likeness[i, (i + np.arange(CHOICES)) % n].argmax() == 0 for i in range(n)]))


def measure(images: np.ndarray, captions: list[str]) -> dict[str, float]:
    """Shares in percent."""
    right = [colours_right(image, parse(caption)) for image, caption in zip(images, captions, strict=True)]
    background, objects = np.array(right).mean(axis=0)
    return {
        "caption of 32 picked": 100 * caption_picked(images, captions),
        "background colour right": 100 * background,
        "object colours right": 100 * objects,
        "both right": 100 * float(np.mean([all(pair) for pair in right])),
    }


def real_renders(split: str, count: int) -> dict[str, float]:
    """The same measures on rendered scenes: what a perfect model would reach."""
    scenes = draw_scenes(count, split, seed=31)
    pictures = render(scenes, torch.Generator().manual_seed(31)).permute(0, 2, 3, 1).numpy()
    images = ((pictures + 1) * 127.5).round().astype(np.uint8)
    return measure(images, [scene.caption for scene in scenes])


def drawn(split: str, guidance_scale: float | None, limit: int) -> tuple[np.ndarray, list[str]]:
    """Pictures of the floating-point model and their captions."""
    path = Path(f"examples/prompts/shapes-{split}.txt")
    request = GenerateRequest(
        model="fp", prompts=path, guidance_scale=guidance_scale, limit=limit, micro_batch=16
    )
    images = generate.run(request, Workspace(Store(STORE)))
    return images.read("image"), path.read_text().splitlines()[:limit]


def sheet(images: np.ndarray, columns: int = 8) -> Image.Image:
    rows = [np.concatenate(list(images[i : i + columns]), axis=1) for i in range(0, len(images), columns)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=("heldout", "unseen", "train"), default="heldout")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--guidance-scale", type=float, default=None)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    if args.sweep:
        for scale in SWEEP:
            print(scale, json.dumps(measure(*drawn(args.split, scale, args.limit))), flush=True)
        return
    images, captions = drawn(args.split, args.guidance_scale, args.limit)
    print(f"{args.split}, drawn:", json.dumps(measure(images, captions), indent=1))
    print(f"VAE, held-out scenes: PSNR {heldout_psnr(find_model(EMBEDDED).vae()):.2f} dB")
    print(f"{args.split}, real renders:", json.dumps(real_renders(args.split, args.limit), indent=1))
    if args.picture:
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        sheet(images[:64]).save(args.picture)


if __name__ == "__main__":
    main()
