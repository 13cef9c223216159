"""The model families as data: the modules of their denoisers and the parts of their pipelines.

A new family is an entry here. The facts are those of the diffusers classes named; steps and guidance scale
are the defaults of their pipelines.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .conditioning import Conditioning, dtype_of

Config = Mapping[str, Any]  # a component's configuration, as its JSON file has it
UNET_CHANNELS = 4  # of a latent
T5_TOKENS = 256  # as in StableDiffusion3Pipeline
PIXART_TOKENS = 300  # as in PixArtSigmaPipeline


@dataclass(frozen=True)
class Denoiser:
    """A class of network: its modules by role, and how its time path computes."""

    cls: str  # in diffusers
    older: tuple[str, ...]  # names of the class in older folders
    time_path: tuple[str, ...]  # modules by name; the linear layers within are not quantized
    projections: tuple[str, ...]  # ends of the paths of layers whose input is the whole embedding
    embedding: tuple[str, ...]  # modules whose sum is the embedding
    reads_embedding: bool  # whether other modules than the projections read it; it stays in the table then
    prompt_modules: tuple[str, ...]  # modules that `embed_prompt` calls
    text_fed: tuple[str, ...]  # ends of the paths of layers whose input is the prompt alone
    blocks: Callable[[nn.Module], list[str]]  # for inter-layer distillation
    middle: Callable[[nn.Module], str]  # the module whose input tells timesteps apart
    embed_timestep: Callable[[nn.Module, Tensor, Tensor | None], Tensor]  # (R), guidance (1,G) -> (R,D)
    embed_prompt: Callable[[nn.Module, Conditioning], Tensor]  # (N) -> (N,D), added to the above
    multiple: Callable[[Config], int]  # the sides of a latent are multiples of so many cells
    text_shape: Callable[[Config, int], tuple[int, int]]  # tokens and channels, from CLIP's tokens
    pooled_width: Callable[[Config], int]
    supported: dict[str, tuple[object, ...]]  # values of configuration fields, the default first
    fill_buffers: Callable[[nn.Module], None] = lambda _: None  # those that no file holds


def _children(network: nn.Module, name: str) -> list[str]:
    return [f"{name}.{child}" for child, _ in network.get_submodule(name).named_children()]


def _unet_blocks(unet: nn.Module) -> list[str]:
    return [*_children(unet, "down_blocks"), "mid_block", *_children(unet, "up_blocks")]


def _unet_timestep(unet: nn.Module, timestep: Tensor, guidance: Tensor | None) -> Tensor:
    embedding = unet.get_submodule("time_embedding")
    sinusoids: Tensor = unet.get_submodule("time_proj")(timestep).to(dtype_of(embedding))
    condition = None if guidance is None else guidance.to(sinusoids).expand(len(timestep), -1)
    embedded: Tensor = embedding(sinusoids, condition)
    return embedded


def _unet_prompt(unet: nn.Module, conditioning: Conditioning) -> Tensor:
    """Return SDXL's embedding: two linear layers on the pooled text and the sinusoids of the six sizes."""
    assert conditioning.size is not None
    assert conditioning.pooled is not None
    sinusoids: Tensor = unet.get_submodule("add_time_proj")(conditioning.size.flatten())
    sizes = sinusoids.view(len(conditioning), -1).to(conditioning.pooled.dtype)
    embedded: Tensor = unet.get_submodule("add_embedding")(torch.cat([conditioning.pooled, sizes], dim=1))
    return embedded


def _mmdit_blocks(transformer: nn.Module) -> list[str]:
    return _children(transformer, "transformer_blocks")


def _mmdit_middle(transformer: nn.Module) -> str:
    blocks = _mmdit_blocks(transformer)
    return blocks[len(blocks) // 2]


def _mmdit_timestep(transformer: nn.Module, timestep: Tensor, _: Tensor | None) -> Tensor:
    embedder = transformer.get_submodule("time_text_embed.timestep_embedder")
    sinusoids: Tensor = transformer.get_submodule("time_text_embed.time_proj")(timestep)
    embedded: Tensor = embedder(sinusoids.to(dtype_of(embedder)))
    return embedded


def _mmdit_prompt(transformer: nn.Module, conditioning: Conditioning) -> Tensor:
    embedded: Tensor = transformer.get_submodule("time_text_embed.text_embedder")(conditioning.pooled)
    return embedded


def _pixart_timestep(transformer: nn.Module, timestep: Tensor, _: Tensor | None) -> Tensor:
    embedder = transformer.get_submodule("adaln_single.emb.timestep_embedder")
    sinusoids: Tensor = transformer.get_submodule("adaln_single.emb.time_proj")(timestep)
    embedded: Tensor = embedder(sinusoids.to(dtype_of(embedder)))
    return embedded


def _no_prompt(_: nn.Module, conditioning: Conditioning) -> Tensor:
    raise TypeError(f"the embedding does not depend on prompts ({len(conditioning)} given)")


def _pixart_buffers(transformer: nn.Module) -> None:
    """Fill the table of positions, which is computed when the network is built."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    embed: Any = transformer.get_submodule("pos_embed")
    _, cells, channels = embed.pos_embed.shape
    options = {"base_size": embed.base_size, "interpolation_scale": embed.interpolation_scale}
    table = get_2d_sincos_pos_embed(channels, math.isqrt(cells), output_type="pt", **options)
    embed.pos_embed = table.float()[None]


UNET = Denoiser(
    cls="UNet2DConditionModel",
    older=(),
    time_path=("time_embedding", "add_embedding", "time_emb_proj"),
    projections=("time_emb_proj",),
    embedding=("time_embedding", "add_embedding"),
    reads_embedding=False,
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
        "in_channels": (UNET_CHANNELS,),  # and those of the family's context
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "encoder_hid_dim": (None,),
        "addition_embed_type": (None, "text_time"),
        "conv_in_kernel": (3,),
    },
)
MMDIT = Denoiser(
    cls="SD3Transformer2DModel",
    older=(),
    time_path=("time_text_embed", "norm1.linear", "norm1_context.linear", "norm_out.linear"),
    projections=("norm1.linear", "norm1_context.linear", "norm_out.linear"),
    embedding=("time_text_embed",),
    reads_embedding=False,
    prompt_modules=("time_text_embed",),
    text_fed=("context_embedder",),
    blocks=_mmdit_blocks,
    middle=_mmdit_middle,
    embed_timestep=_mmdit_timestep,
    embed_prompt=_mmdit_prompt,
    multiple=lambda config: int(config["patch_size"]),
    text_shape=lambda config, tokens: (tokens + T5_TOKENS, int(config["joint_attention_dim"])),
    pooled_width=lambda config: int(config["pooled_projection_dim"]),
    supported={},
)
PIXART = Denoiser(
    cls="PixArtTransformer2DModel",
    older=("Transformer2DModel",),
    time_path=("adaln_single",),
    projections=("adaln_single.linear",),
    embedding=("adaln_single.emb",),
    reads_embedding=True,
    prompt_modules=(),
    text_fed=("caption_projection.linear_1", "caption_projection.linear_2"),
    blocks=_mmdit_blocks,
    middle=_mmdit_middle,
    embed_timestep=_pixart_timestep,
    embed_prompt=_no_prompt,
    multiple=lambda config: int(config["patch_size"]),
    text_shape=lambda config, _: (PIXART_TOKENS, int(config["caption_channels"])),
    pooled_width=lambda _: 0,
    supported={"norm_type": ("ada_norm_single",)},
    fill_buffers=_pixart_buffers,
)
DENOISERS = {UNET.cls: UNET, MMDIT.cls: MMDIT, PIXART.cls: PIXART}


def denoiser_of(network: object) -> Denoiser:
    """Return the entry of a network's class; the UNet's for a class that is not known."""
    return DENOISERS.get(type(network).__name__, UNET)


def tokenizer_of(text_encoder: str) -> str:
    """Return the folder of the tokenizer of a text encoder."""
    return text_encoder.replace("text_encoder", "tokenizer")


@dataclass(frozen=True)
class Family:
    """A kind of pipeline, in diffusers layout."""

    name: str
    pipelines: tuple[str, ...]  # classes; the first encodes prompts
    denoiser: Denoiser
    folder: str  # of the denoiser
    texts: tuple[str, ...]  # folders of the text encoders; each has a tokenizer of the same number
    optional: tuple[str, ...] = ()  # text encoders that a pipeline may lack
    t5: tuple[str, ...] = ()  # text encoders that are T5; the others are CLIP
    masked: bool = False  # whether the denoiser takes a mask of the tokens
    sized: bool = False  # whether the denoiser takes image sizes
    pooled: bool = False  # whether it takes the pooled text: time features then depend on the prompt
    flow: bool = False  # whether the samplers are those of flow matching
    indexed: bool = False  # whether the pipeline sets its sampler's begin index
    normalised: tuple[str, ...] = ()  # fields of the autoencoder's config read besides scaling_factor
    context: int = 0  # channels of the denoiser's input beside the latent's: mask and masked picture
    embeds_guidance: bool = False  # whether the denoiser must embed the guidance scale
    scheduler: str | None = None  # the one class that its pipeline can run; None: it runs others too
    steps: int = 50
    guidance_scale: float = 7.5

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders that a pipeline must have."""
        encoders = [name for name in self.texts if name not in self.optional]
        return ("scheduler", *encoders, *map(tokenizer_of, encoders), self.folder, "vae")


NORMALISING = ("latents_mean", "latents_std", "shift_factor")  # each pipeline reads some of them

SD = Family(
    name="Stable Diffusion 1 and 2",
    pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
    denoiser=UNET,
    folder="unet",
    texts=("text_encoder",),
)
SDXL = Family(
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
)
FAMILIES = (
    SD,
    SDXL,
    Family(
        name="Stable Diffusion 3",
        pipelines=("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
        denoiser=MMDIT,
        folder="transformer",
        texts=("text_encoder", "text_encoder_2", "text_encoder_3"),
        optional=("text_encoder_3",),
        t5=("text_encoder_3",),
        pooled=True,
        flow=True,
        normalised=("shift_factor",),
        steps=28,
        guidance_scale=7.0,
    ),
    Family(
        name="PixArt-Sigma",
        pipelines=("PixArtSigmaPipeline",),
        denoiser=PIXART,
        folder="transformer",
        texts=("text_encoder",),
        t5=("text_encoder",),
        masked=True,
        steps=20,
        guidance_scale=4.5,
    ),
    replace(
        SD,
        name="Stable Diffusion inpainting",
        pipelines=("StableDiffusionInpaintPipeline",),
        indexed=True,
        context=5,
    ),
    replace(
        SDXL,
        name="Stable Diffusion XL inpainting",
        pipelines=("StableDiffusionXLInpaintPipeline",),
        context=5,
        guidance_scale=7.5,
    ),
    replace(
        SD,
        name="Latent consistency models",
        pipelines=("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
        embeds_guidance=True,
        scheduler="LCMScheduler",
        steps=4,
        guidance_scale=8.5,
    ),
)


def family_of(pipeline: str) -> Family | None:
    """Return the family of a pipeline class, or None if it is not known."""
    return next((family for family in FAMILIES if pipeline in family.pipelines), None)
