"""Published configurations of the pipelines that people have, as diffusers reads them.

Numbers are those of the config.json files of the repositories named; what equals the default of the
class is left out. `TINY` has the same classes and options at widths that a test can afford.
"""

from typing import Any

Parts = dict[str, tuple[str, dict[str, Any]]]  # folder -> class, configuration

CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
CLIP_H = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
CLIP_G = {
    "vocab_size": 49408,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}

SD_V1_4: Parts = {  # CompVis/stable-diffusion-v1-4
    "unet": (
        "UNet2DConditionModel",
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    ),
    "vae": ("AutoencoderKL", {**VAE, "sample_size": 512}),
    "text_encoder": ("CLIPTextModel", CLIP_L),
    "scheduler": ("PNDMScheduler", {**BETAS, "skip_prk_steps": True, "set_alpha_to_one": False}),
}
LCM: Parts = {  # SD v1-4 with the guidance embedding and scheduler of SimianLuo/LCM_Dreamshaper_v7
    **SD_V1_4,
    "unet": ("UNet2DConditionModel", {**SD_V1_4["unet"][1], "time_cond_proj_dim": 256}),
    "scheduler": ("LCMScheduler", {**BETAS, "clip_sample": False}),
}
SD_INPAINTING: Parts = {  # SD v1-4 with the channels of stable-diffusion-v1-5/stable-diffusion-inpainting
    **SD_V1_4,
    "unet": ("UNet2DConditionModel", {**SD_V1_4["unet"][1], "in_channels": 9}),
}
SD_V2_1: Parts = {  # stabilityai/stable-diffusion-2-1
    "unet": (
        "UNet2DConditionModel",
        {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
            "upcast_attention": True,
        },
    ),
    "vae": ("AutoencoderKL", {**VAE, "sample_size": 768}),
    "text_encoder": ("CLIPTextModel", CLIP_H),
    "scheduler": (
        "DDIMScheduler",
        {**BETAS, "prediction_type": "v_prediction", "set_alpha_to_one": False, "clip_sample": False},
    ),
}
SDXL: Parts = {  # stabilityai/stable-diffusion-xl-base-1.0
    "unet": (
        "UNet2DConditionModel",
        {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
    "vae": ("AutoencoderKL", {**VAE, "sample_size": 1024, "scaling_factor": 0.13025}),
    "text_encoder": ("CLIPTextModel", CLIP_L),
    "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G),
    "scheduler": ("EulerDiscreteScheduler", {**BETAS, "timestep_spacing": "leading"}),
}
SSD_1B: Parts = {  # segmind/SSD-1B
    **SDXL,
    "unet": (
        "UNet2DConditionModel",
        {
            **SDXL["unet"][1],
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": ((1,), (2, 2), (4, 4)),
            "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 1),
        },
    ),
}
VEGA: Parts = {  # segmind/Segmind-Vega
    **SDXL,
    "unet": (
        "UNet2DConditionModel",
        {
            **SDXL["unet"][1],
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": (1, 1, 2),
        },
    ),
}
SDXL_INPAINTING: Parts = {  # diffusers/stable-diffusion-xl-1.0-inpainting-0.1
    **SDXL,
    "unet": ("UNet2DConditionModel", {**SDXL["unet"][1], "in_channels": 9}),
}
SD3_MEDIUM: Parts = {  # stabilityai/stable-diffusion-3-medium-diffusers, without T5
    "transformer": (
        "SD3Transformer2DModel",
        {
            "sample_size": 128,
            "num_layers": 24,
            "num_attention_heads": 24,
            "attention_head_dim": 64,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        },
    ),
    "vae": (
        "AutoencoderKL",
        {
            **VAE,
            "sample_size": 1024,
            "latent_channels": 16,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    ),
    "text_encoder": ("CLIPTextModelWithProjection", CLIP_L),
    "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G),
    "scheduler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
}
SD3_MEDIUM_T5: Parts = {**SD3_MEDIUM, "text_encoder_3": ("T5EncoderModel", T5_XXL)}  # as published
PIXART_SIGMA: Parts = {  # PixArt-alpha/PixArt-Sigma-XL-2-1024-MS
    "transformer": (
        "PixArtTransformer2DModel",
        {
            "sample_size": 128,
            "num_layers": 28,
            "num_attention_heads": 16,
            "attention_head_dim": 72,
            "cross_attention_dim": 1152,
            "caption_channels": 4096,
            "out_channels": 8,
            "interpolation_scale": 2,
            "use_additional_conditions": False,
        },
    ),
    "vae": ("AutoencoderKL", {**VAE, "sample_size": 1024, "scaling_factor": 0.13025}),
    "text_encoder": ("T5EncoderModel", T5_XXL),
    "scheduler": (
        "DPMSolverMultistepScheduler",
        {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "solver_order": 2},
    ),
}
SD3_5_MEDIUM: Parts = {  # stabilityai/stable-diffusion-3.5-medium, without T5
    **SD3_MEDIUM,
    "transformer": (
        "SD3Transformer2DModel",
        {
            **SD3_MEDIUM["transformer"][1],
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
    ),
}
PIPELINES = {
    "sd-v1-4": ("StableDiffusionPipeline", SD_V1_4),
    "sd-v2-1": ("StableDiffusionPipeline", SD_V2_1),
    "sdxl": ("StableDiffusionXLPipeline", SDXL),
    "sd3-medium": ("StableDiffusion3Pipeline", SD3_MEDIUM),
    "sd3.5-medium": ("StableDiffusion3Pipeline", SD3_5_MEDIUM),
    "pixart-sigma": ("PixArtSigmaPipeline", PIXART_SIGMA),
    "lcm": ("LatentConsistencyModelPipeline", LCM),
    "sd-inpainting": ("StableDiffusionInpaintPipeline", SD_INPAINTING),
    "sdxl-inpainting": ("StableDiffusionXLInpaintPipeline", SDXL_INPAINTING),
}
DISTILLED = {  # the same modules as SDXL's, fewer of them
    "ssd-1b": ("StableDiffusionXLPipeline", SSD_1B),
    "vega": ("StableDiffusionXLPipeline", VEGA),
}
WITH_T5 = {"sd3-medium-t5": ("StableDiffusion3Pipeline", SD3_MEDIUM_T5)}  # 4.8 billion parameters more

_TINY_CLIP = {
    "vocab_size": 1000,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_TINY_UNET = {"sample_size": 8, "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 16}
_FOUR, _THREE = {"block_out_channels": (8, 8, 16, 16)}, {"block_out_channels": (8, 8, 16)}
TINY: dict[str, dict[str, dict[str, Any]]] = {  # overrides, by pipeline and folder
    "sd-v1-4": {"unet": {**_TINY_UNET, **_FOUR, "attention_head_dim": 2}},
    "sd-v2-1": {"unet": {**_TINY_UNET, **_FOUR, "attention_head_dim": (1, 2, 2, 2)}},
    "sdxl": {
        "unet": {
            **_TINY_UNET,
            **_THREE,
            "cross_attention_dim": 32,
            "attention_head_dim": (1, 2, 2),
            "transformer_layers_per_block": (1, 1, 2),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 16 + 6 * 8,
        },
        "text_encoder_2": {"projection_dim": 16},
    },
    "sd3-medium": {
        "transformer": {
            "sample_size": 8,
            "num_layers": 3,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "joint_attention_dim": 32,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 32,
            "pos_embed_max_size": 16,
        },
        "text_encoder": {"projection_dim": 16},
        "text_encoder_2": {"projection_dim": 16},
    },
}
TINY["lcm"] = {"unet": {**TINY["sd-v1-4"]["unet"], "time_cond_proj_dim": 8}}
TINY["sd-inpainting"] = {"unet": TINY["sd-v1-4"]["unet"]}
TINY["sdxl-inpainting"] = {part: dict(options) for part, options in TINY["sdxl"].items()}
TINY["sd3-medium-t5"] = {
    **TINY["sd3-medium"],
    "text_encoder_3": {
        "vocab_size": 1000,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 2,
    },
}
TINY["pixart-sigma"] = {
    "transformer": {
        "sample_size": 8,
        "num_layers": 3,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 32,
    },
    "text_encoder": TINY["sd3-medium-t5"]["text_encoder_3"],
}
TINY["sd3.5-medium"] = {
    **TINY["sd3-medium"],
    "transformer": {**TINY["sd3-medium"]["transformer"], "dual_attention_layers": (0, 1)},
}
for _pipeline in TINY.values():
    _pipeline["vae"] = {"block_out_channels": (4, 4, 8, 8), "norm_num_groups": 2, "layers_per_block": 1}
    for _name in ("text_encoder", "text_encoder_2"):
        if "d_model" not in _pipeline.get(_name, {}):  # T5
            _pipeline[_name] = {**_TINY_CLIP, **_pipeline.get(_name, {})}
