"""The model families, as data: what their denoisers and pipelines are made of.

A new family is an entry here. Facts are those of the diffusers classes named; steps and guidance
scale are the defaults of their pipelines.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .conditioning import Conditioning

Config = Mapping[str, Any]
T5_TOKENS = 256  # as StableDiffusion3Pipeline has it


@dataclass(frozen=True)
class Denoiser:
    """A class of network: where its time path is, and how the parts of that compute."""

    cls: str  # in diffusers
    time_path: tuple[str, ...]  # modules by name; the linear layers within are not quantized
    projections: tuple[str, ...]  # ends of the paths of those whose input is the whole embedding
    embedding: tuple[str, ...]  # modules whose sum is the embedding
    prompt_modules: tuple[str, ...]  # what `embed_prompt` needs of the network
    text_fed: tuple[str, ...]  # ends of the paths of what sees only the prompt
    blocks: Callable[[Any], list[str]]  # for inter-layer distillation
    middle: Callable[[Any], str]  # the module whose input tells steps apart
    embed_timestep: Callable[[Any, Tensor], Tensor]  # (R) -> (R,D)
    embed_prompt: Callable[[Any, Conditioning], Tensor]  # (N) -> (N,D), added to the above
    multiple: Callable[[Config], int]  # latent cells that a side is a multiple of
    text_shape: Callable[[Config, int], tuple[int, int]]  # tokens and channels, given CLIP's tokens
    pooled_width: Callable[[Config], int]
    supported: dict[str, tuple[object, ...]]  # fields of its configuration, the default first


def _unet_blocks(unet: Any) -> list[str]:
    down = [f"down_blocks.{i}" for i in range(len(unet.down_blocks))]
    return [*down, "mid_block", *(f"up_blocks.{i}" for i in range(len(unet.up_blocks)))]


def _unet_timestep(unet: Any, timestep: Tensor) -> Tensor:
    embedded: Tensor = unet.time_embedding(
        unet.time_proj(timestep).to(unet.time_embedding.linear_1.weight.dtype)
    )
    return embedded


def _unet_prompt(unet: Any, conditioning: Conditioning) -> Tensor:
    """SDXL: pooled text and the sinusoids of the six sizes, side by side, through two linear layers."""
    assert conditioning.size is not None
    assert conditioning.pooled is not None
    sizes = unet.add_time_proj(conditioning.size.flatten()).view(len(conditioning), -1)
    embedded: Tensor = unet.add_embedding(
        torch.cat([conditioning.pooled, sizes.to(conditioning.pooled.dtype)], dim=1)
    )
    return embedded


def _mmdit_timestep(transformer: Any, timestep: Tensor) -> Tensor:
    embed = transformer.time_text_embed
    dtype = embed.timestep_embedder.linear_1.weight.dtype
    embedded: Tensor = embed.timestep_embedder(embed.time_proj(timestep).to(dtype))
    return embedded


def _mmdit_prompt(transformer: Any, conditioning: Conditioning) -> Tensor:
    embedded: Tensor = transformer.time_text_embed.text_embedder(conditioning.pooled)
    return embedded


UNET = Denoiser(
    cls="UNet2DConditionModel",
    time_path=("time_embedding", "add_embedding", "time_emb_proj"),
    projections=("time_emb_proj",),
    embedding=("time_embedding", "add_embedding"),
    prompt_modules=("add_time_proj", "add_embedding"),
    text_fed=("attn2.to_k", "attn2.to_v", "attn2.processor.k", "attn2.processor.v"),
    blocks=_unet_blocks,
    middle=lambda _: "mid_block.attentions.0",
    embed_timestep=_unet_timestep,
    embed_prompt=_unet_prompt,
    multiple=lambda config: 2 ** (len(config["block_out_channels"]) - 1),
    text_shape=lambda config, tokens: (tokens, int(config["cross_attention_dim"])),
    pooled_width=lambda config: (
        int(config["projection_class_embeddings_input_dim"]) - 6 * int(config["addition_time_embed_dim"])
    ),
    supported={
        "in_channels": (4,),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "encoder_hid_dim": (None,),
        "time_cond_proj_dim": (None,),
        "addition_embed_type": (None, "text_time"),
        "conv_in_kernel": (3,),
    },
)
MMDIT = Denoiser(
    cls="SD3Transformer2DModel",
    time_path=("time_text_embed", "norm1.linear", "norm1_context.linear", "norm_out.linear"),
    projections=("norm1.linear", "norm1_context.linear", "norm_out.linear"),
    embedding=("time_text_embed",),
    prompt_modules=("time_text_embed",),
    text_fed=("context_embedder",),
    blocks=lambda network: [f"transformer_blocks.{i}" for i in range(len(network.transformer_blocks))],
    middle=lambda network: f"transformer_blocks.{len(network.transformer_blocks) // 2}",
    embed_timestep=_mmdit_timestep,
    embed_prompt=_mmdit_prompt,
    multiple=lambda config: int(config["patch_size"]),
    text_shape=lambda config, tokens: (tokens + T5_TOKENS, int(config["joint_attention_dim"])),
    pooled_width=lambda config: int(config["pooled_projection_dim"]),
    supported={},
)
DENOISERS = {denoiser.cls: denoiser for denoiser in (UNET, MMDIT)}


def denoiser_of(network: object) -> Denoiser:
    """The entry of a network's class; of an unknown class, the UNet's."""
    return DENOISERS.get(type(network).__name__, UNET)


@dataclass(frozen=True)
class Family:
    """A kind of pipeline, in diffusers layout."""

    name: str
    pipelines: tuple[str, ...]  # classes; the first encodes prompts
    denoiser: Denoiser
    folder: str  # of the denoiser
    texts: tuple[str, ...]  # folders of text encoders; each has a tokenizer of the same number
    optional: tuple[str, ...] = ()  # those of `texts` that a pipeline may lack
    sized: bool = False  # whether it is told picture sizes
    pooled: bool = False  # whether it is told the pooled text: its time features are the prompt's own
    flow: bool = False  # whether its samplers are those of flow matching
    indexed: bool = False  # whether the pipeline tells its sampler that it begins at the first timestep
    normalised: tuple[str, ...] = ()  # what it reads of the autoencoder's config beside scaling_factor
    steps: int = 50
    guidance_scale: float = 7.5

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders that a pipeline must have."""
        needed = [name for name in self.texts if name not in self.optional]
        tokenizers = [name.replace("text_encoder", "tokenizer") for name in needed]
        return ("scheduler", *needed, *tokenizers, self.folder, "vae")


NORMALISING = ("latents_mean", "latents_std", "shift_factor")  # some pipelines read some of them

FAMILIES = (
    Family(
        name="Stable Diffusion 1 and 2",
        pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
        denoiser=UNET,
        folder="unet",
        texts=("text_encoder",),
    ),
    Family(
        name="Stable Diffusion XL",
        pipelines=("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
        denoiser=UNET,
        folder="unet",
        texts=("text_encoder", "text_encoder_2"),
        sized=True,
        pooled=True,
        indexed=True,
        normalised=("latents_mean", "latents_std"),
        guidance_scale=5.0,
    ),
    Family(
        name="Stable Diffusion 3",
        pipelines=("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
        denoiser=MMDIT,
        folder="transformer",
        texts=("text_encoder", "text_encoder_2", "text_encoder_3"),
        optional=("text_encoder_3",),
        pooled=True,
        flow=True,
        normalised=("shift_factor",),
        steps=28,
        guidance_scale=7.0,
    ),
)


def family_of(pipeline: str) -> Family | None:
    """The family of a pipeline class, None if it is not known here."""
    return next((family for family in FAMILIES if pipeline in family.pipelines), None)
