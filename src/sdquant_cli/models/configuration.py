"""The JSON files of a pipeline's components as pydantic models: types of fields, and bounds on sizes.

A field with a default may be missing, as in diffusers and transformers. Fields that are not named here are
ignored.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Fields(BaseModel):
    """The base of all files."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


_Cells = Annotated[int, Field(ge=1, le=4096)]
_Width = Annotated[int, Field(ge=1, le=16384)]
_Depth = Annotated[int, Field(ge=1, le=64)]
_Layers = Annotated[int, Field(ge=0, le=64)]  # 0: a block without attention
_Heads = Annotated[int, Field(ge=1, le=1024)]
_Channels = Annotated[int, Field(ge=1, le=64)]
_Widths = Annotated[list[_Width], Field(min_length=1, max_length=8)]
_Names = Annotated[list[str], Field(min_length=1, max_length=8)]
_Size = Annotated[list[_Cells], Field(min_length=2, max_length=2)]


class Defaults(Fields):
    """The default settings of a model: sdquant.json."""

    guidance_scale: Annotated[float, Field(ge=0, le=1000)]
    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    prompts: str | None = None  # a file of held-out prompts, relative to the model


class Index(Fields):
    """The pipeline: model_index.json."""

    pipeline: str = Field(alias="_class_name")


class UNet(Fields):
    """The denoiser of Stable Diffusion 1 and 2."""

    sample_size: _Cells | _Size
    in_channels: _Channels = 4
    out_channels: _Channels = 4
    block_out_channels: _Widths = [320, 640, 1280, 1280]
    down_block_types: _Names | None = None
    up_block_types: _Names | None = None
    layers_per_block: _Depth | list[_Depth] = 2
    transformer_layers_per_block: _Layers | list[_Layers | list[_Layers]] = 1
    reverse_transformer_layers_per_block: _Layers | list[_Layers | list[_Layers]] | None = None
    cross_attention_dim: _Width = 1280
    attention_head_dim: _Heads | list[_Heads] | None = 8
    num_attention_heads: _Heads | list[_Heads] | None = None
    norm_num_groups: _Heads | None = 32
    time_embedding_dim: _Width | None = None
    time_cond_proj_dim: Annotated[int, Field(ge=4, le=16384)] | None = None


class PooledUNet(UNet):
    """The denoiser of SDXL, with the fields of its pooled text and image sizes."""

    addition_embed_type: Literal["text_time"]
    addition_time_embed_dim: _Width
    projection_class_embeddings_input_dim: _Width


class Transformer(Fields):
    """The denoiser of Stable Diffusion 3."""

    sample_size: _Cells = 128
    patch_size: Annotated[int, Field(ge=1, le=16)] = 2
    in_channels: _Channels = 16
    out_channels: _Channels = 16
    num_layers: Annotated[int, Field(ge=1, le=128)] = 18
    attention_head_dim: _Heads = 64
    num_attention_heads: _Heads = 18
    joint_attention_dim: _Width = 4096
    caption_projection_dim: _Width = 1152
    pooled_projection_dim: _Width = 2048
    pos_embed_max_size: _Cells = 96


class PixArtTransformer(Fields):
    """The denoiser of PixArt-Sigma."""

    sample_size: _Cells = 128
    patch_size: Annotated[int, Field(ge=1, le=16)] = 2
    in_channels: _Channels = 4
    out_channels: _Channels | None = 8
    num_layers: Annotated[int, Field(ge=1, le=128)] = 28
    attention_head_dim: _Heads = 72
    num_attention_heads: _Heads = 16
    cross_attention_dim: _Width = 1152
    caption_channels: _Width
    use_additional_conditions: Literal[False]


class Autoencoder(Fields):
    """AutoencoderKL."""

    block_out_channels: _Widths = [64]
    latent_channels: _Channels = 4
    layers_per_block: _Depth = 1
    norm_num_groups: _Heads = 32
    scaling_factor: float = 1.0
    shift_factor: float | None = None
    latents_mean: list[float] | None = None
    latents_std: list[float] | None = None


class TinyAutoencoder(Fields):
    """AutoencoderTiny."""

    block_out_channels: _Widths
    encoder_block_out_channels: _Widths = [64, 64, 64, 64]
    decoder_block_out_channels: _Widths = [64, 64, 64, 64]
    num_encoder_blocks: list[_Depth] = [1, 3, 3, 3]
    num_decoder_blocks: list[_Depth] = [3, 3, 3, 1]
    latent_channels: _Channels = 4
    scaling_factor: float = 1.0


class Scheduler(Fields):
    """The noise schedule: scheduler_config.json."""

    num_train_timesteps: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"] = "linear"
    trained_betas: list[float] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "leading"
    steps_offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    shift: float | None = None


class TextEncoder(Fields):
    """The sizes of CLIP and T5."""

    vocab_size: Annotated[int, Field(ge=1, le=10_000_000)] = 49408
    hidden_size: _Width = 512
    intermediate_size: Annotated[int, Field(ge=1, le=262_144)] = 2048
    num_hidden_layers: Annotated[int, Field(ge=1, le=256)] = 12
    num_attention_heads: _Heads = 8
    max_position_embeddings: Annotated[int, Field(ge=2, le=65_536)] = 77
    projection_dim: _Width = 512
    d_model: _Width = 512
    d_ff: Annotated[int, Field(ge=1, le=262_144)] = 2048
    num_layers: Annotated[int, Field(ge=1, le=256)] = 6
    num_heads: _Heads = 8


class Tokenizer(Fields):
    """The length of CLIP's tokenizer: tokenizer_config.json."""

    model_max_length: Annotated[int, Field(ge=2)]
