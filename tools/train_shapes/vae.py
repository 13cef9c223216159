"""Trains the VAE: 64x64 pictures to 4x16x16 latents.  `python -m tools.train_shapes.vae`"""

import argparse

import torch
from diffusers import AutoencoderKL

from .scenes import draw_scenes, render
from .training import RUNS, train

CONFIG = dict(
    block_out_channels=(32, 48, 64),
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=8,
    sample_size=64,
)
KL_WEIGHT = 5e-5  # per latent element; enough to keep the latents near N(0, 1) and smooth


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """PSNR in dB per picture of two batches in -1..1."""
    return 10 * torch.log10(4 / (a - b).square().mean(dim=(1, 2, 3)))


@torch.no_grad()
def heldout_psnr(vae: AutoencoderKL, count: int = 256) -> float:
    images = render(draw_scenes(count, "heldout", seed=7), torch.Generator().manual_seed(7))
    return float(psnr(vae(images).sample.clamp(-1, 1), images).mean())


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, count: int = 2048) -> float:
    """The factor that gives latents unit variance (`scaling_factor` of SD's VAE)."""
    images = render(draw_scenes(count, "train", seed=8), torch.Generator().manual_seed(8))
    return float(1 / torch.cat([vae.encode(b).latent_dist.mode() for b in images.split(64)]).std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    torch.manual_seed(0)
    vae = AutoencoderKL(**CONFIG)

    def loss_of(update: int, generator: torch.Generator) -> torch.Tensor:
        images = render(draw_scenes(args.batch, "train", seed=10_000 + update), generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        return (decoded.float() - images).square().mean() + KL_WEIGHT * kl

    vae = train("vae", vae, loss_of, updates=args.updates, rate=2e-3, decay=0.995, weight_decay=0.0)
    vae.register_to_config(scaling_factor=latent_scale(vae))
    vae.save_pretrained(RUNS / "vae")
    print(f"held-out PSNR {heldout_psnr(vae):.2f} dB, scaling factor {vae.config.scaling_factor:.4f}")


if __name__ == "__main__":
    main()
