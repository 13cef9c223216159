"""Draws the training scenes once and stores their latents and token ids, in shards that resume.

`python -m tools.train_shapes.latents`
"""

import argparse

import torch
from diffusers import AutoencoderKL

from .scenes import draw_scenes, render
from .tokenizer import build, tokenize
from .training import RUNS, save_atomically

SHARD = 4096
FOLDER = RUNS / "latents"


@torch.no_grad()
def make_shard(index: int, vae: AutoencoderKL, tokenizer) -> dict[str, torch.Tensor]:
    scenes = draw_scenes(SHARD, "train", seed=1_000_000 + index)
    generator = torch.Generator().manual_seed(1_000_000 + index)
    latents = []
    for start in range(0, SHARD, 64):
        images = render(scenes[start : start + 64], generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents.append(vae.encode(images).latent_dist.mode().half())
    ids = tokenize(tokenizer, [s.caption for s in scenes]).to(torch.int16)
    return {"latents": torch.cat(latents) * vae.config.scaling_factor, "ids": ids}


def load_shards() -> tuple[torch.Tensor, torch.Tensor]:
    """All stored latents (N,4,16,16) fp16 and token ids (N, MAX_TOKENS) int16."""
    shards = [torch.load(path, weights_only=True) for path in sorted(FOLDER.glob("*.pt"))]
    return torch.cat([s["latents"] for s in shards]), torch.cat([s["ids"] for s in shards])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=16)
    args = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(RUNS / "vae").eval()
    tokenizer = build()
    for index in range(args.shards):
        path = FOLDER / f"{index:03d}.pt"
        if not path.exists():
            save_atomically(make_shard(index, vae, tokenizer), path)
            print(f"shard {index + 1}/{args.shards}", flush=True)


if __name__ == "__main__":
    main()
