"""Trains the denoiser and, with it, the text encoder that conditions it.  `python -m tools.train_shapes.unet`

The UNet has the module tree of SD v1-4, name for name, at 1/150 of its size.  On N cores:
`torchrun --nproc-per-node N -m tools.train_shapes.unet`
"""

import argparse

import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .latents import load_shards
from .tokenizer import MAX_TOKENS, tokenize
from .training import RUNS, join_workers, train

WIDTH = 96
UNET = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    block_out_channels=(32, 64, 96, 96),
    layers_per_block=2,
    cross_attention_dim=WIDTH,
    attention_head_dim=4,  # heads per attention, as in SD v1-4's configuration
    norm_num_groups=8,
)
SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    num_train_timesteps=1000,
    skip_prk_steps=True,
    steps_offset=1,
    set_alpha_to_one=False,
    clip_sample=False,  # of no use to PNDM; DDIM made from this configuration needs it
)
SNR_CAP = 5.0
EMPTY = 0.1  # share of empty prompts, for classifier-free guidance


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class Conditioned(nn.Module):
    """UNet and text encoder, trained as one."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.text = CLIPTextModel(text_config(tokenizer))
        for table in self.text.modules():
            if isinstance(table, nn.Embedding):  # CLIP's 0.02 starts the words too close together
                nn.init.normal_(table.weight, std=0.3)
        self.unet = UNet2DConditionModel(**UNET)

    def forward(self, noisy: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        return self.unet(noisy, t, self.text(ids).last_hidden_state).sample


def noise_levels() -> Tensor:
    """Cumulative alphas (1000,) of the training schedule."""
    return PNDMScheduler.from_config(SCHEDULER).alphas_cumprod


def loss_weight(alpha: Tensor) -> Tensor:
    """Square root of the min-SNR weight for epsilon prediction (Hang et al. 2023, eq. 7): half way
    between plain epsilon-MSE, which learns texture first, and min-SNR, which neglects texture."""
    snr = alpha / (1 - alpha)
    return (snr.clamp(max=SNR_CAP) / snr).sqrt()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=6500)
    parser.add_argument("--batch", type=int, default=32, help="pictures per update, over all workers")
    parser.add_argument("--rate", type=float, default=1e-3)
    args = parser.parse_args()
    rank, workers = join_workers()
    batch = args.batch // workers
    tokenizer = CLIPTokenizer.from_pretrained(RUNS / "tokenizer")
    latents, ids = load_shards()
    empty = tokenize(tokenizer, [""])[0]
    alphas = noise_levels()
    torch.manual_seed(0)
    model = Conditioned(tokenizer).to(memory_format=torch.channels_last)

    def loss_of(_: int, generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(latents), (batch,), generator=generator)
        clean, words = latents[pick].float(), ids[pick].long()
        words[torch.rand(batch, generator=generator) < EMPTY] = empty
        # stratified timesteps: one per equal slice of the schedule
        u = torch.rand(batch, generator=generator) + torch.arange(batch)
        t = (u / batch * len(alphas)).long()
        noise = torch.randn(clean.shape, generator=generator)
        alpha = alphas[t].view(-1, 1, 1, 1)
        predicted = model(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, t, words)
        return ((predicted - noise).square() * loss_weight(alpha)).mean()

    average = train("unet", model, loss_of, updates=args.updates, rate=args.rate, decay=0.9995)
    if rank == 0:
        average.unet.save_pretrained(RUNS / "unet")
        average.text.save_pretrained(RUNS / "text_encoder")


if __name__ == "__main__":
    main()
