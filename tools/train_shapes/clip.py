"""Fits the image half of the CLIP, contrastively, to the text encoder that the UNet was trained with.

`torchrun --nproc-per-node N -m tools.train_shapes.clip`
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from .scenes import draw_scenes, render
from .tokenizer import tokenize
from .training import RUNS, join_workers, train
from .unet import text_config

VISION = dict(
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    image_size=64,
    patch_size=8,
    projection_dim=64,
)


def new_clip(tokenizer: CLIPTokenizer, text: CLIPTextModel) -> CLIPModel:
    """A CLIP around a trained text encoder, which stays as it is."""
    config = CLIPConfig(text_config=text_config(tokenizer).to_dict(), vision_config=VISION, projection_dim=64)
    clip = CLIPModel(config)
    for name, value in text.state_dict().items():
        clip.text_model.state_dict()[name.removeprefix("text_model.")].copy_(value)
    clip.text_model.requires_grad_(False)
    return clip


def features(clip: CLIPModel, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Unit-length features of pictures in -1..1 and of token ids."""
    seen = clip.get_image_features(pixel_values=images).pooler_output
    read = clip.get_text_features(input_ids=ids).pooler_output
    return F.normalize(seen, dim=-1), F.normalize(read, dim=-1)


def contrastive_loss(seen: Tensor, read: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over the batch (Radford et al. 2021, fig. 3)."""
    logits = scale.exp().clamp(max=100) * seen @ read.T
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def pick_accuracy(
    clip: nn.Module, tokenizer: CLIPTokenizer, split: str, count: int = 500, choices: int = 32
) -> float:
    """How often a render's own caption is the closest of `choices` captions."""
    scenes = draw_scenes(count + choices, split, seed=17)
    images = render(scenes[:count], torch.Generator().manual_seed(17))
    seen, read = features(clip, images, tokenize(tokenizer, [s.caption for s in scenes])[: count + choices])
    likeness = seen @ read.T
    picked = torch.stack([likeness[i, i : i + choices].argmax() for i in range(count)])
    return float((picked == 0).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=3500)
    parser.add_argument("--batch", type=int, default=64, help="pictures per worker and update")
    args = parser.parse_args()
    rank, workers = join_workers()
    tokenizer = CLIPTokenizer.from_pretrained(RUNS / "tokenizer")
    torch.manual_seed(0)
    clip = new_clip(tokenizer, CLIPTextModel.from_pretrained(RUNS / "text_encoder"))

    def loss_of(update: int, generator: torch.Generator) -> Tensor:
        scenes = draw_scenes(args.batch, "train", seed=20_000_000 + update * workers + rank)
        ids = tokenize(tokenizer, [s.caption for s in scenes])
        return contrastive_loss(*features(clip, render(scenes, generator), ids), clip.logit_scale)

    average = train("clip", clip, loss_of, updates=args.updates, rate=1e-3, decay=0.995)
    if rank == 0:
        average.save_pretrained(RUNS / "clip")
        tokenizer.save_pretrained(RUNS / "clip")
        for split in ("heldout", "unseen"):
            picked = 100 * pick_accuracy(average, tokenizer, split)
            print(f"{split}: picks the right caption of 32 for {picked:.1f}% of renders")


if __name__ == "__main__":
    main()
