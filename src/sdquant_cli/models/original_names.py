"""The names of a pipeline's tensors in the original code's checkpoints, one file for all networks.

The reverse of what diffusers does in `diffusers.loaders.single_file_utils` when it reads such a file, for
Stable Diffusion 1 and 2 (LDM) and XL (SGM).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UsageProblem
from .families import UNET, Family
from .folder import GUIDANCE

Tensors = Mapping[str, Tensor]

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_VAE_BLOCK = re.compile(
    r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_CLIP_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")


def check_layout(family: Family, config: Mapping[str, object], vae: str) -> None:
    """Raise UsageProblem for a model that the original code has no layout for; `vae` is its class."""
    if family.denoiser is not UNET:
        raise UsageProblem(f"--format: a single file holds Stable Diffusion 1, 2 and XL, not {family.name}")
    if config.get(GUIDANCE) is not None:
        raise UsageProblem(
            f"--format: the UNet embeds the guidance scale ({GUIDANCE}), which a single file cannot hold"
        )
    if not isinstance(config["layers_per_block"], int):
        raise UsageProblem(
            f"--format: layers_per_block of the UNet is {config['layers_per_block']}; a single file needs "
            f"one number for all blocks"
        )
    if vae != "AutoencoderKL":
        raise UsageProblem(f"--format: the vae is {vae}; a single file holds AutoencoderKL")


def unet_tensors(tensors: Tensors, layers: int) -> dict[str, Tensor]:
    """Return a UNet's tensors by their original names; `layers` are its layers per block."""
    attended = {name.split(".")[1] for name in tensors if re.match(r"up_blocks\.\d+\.attentions", name)}
    return {f"{UNET_PREFIX}{_of_unet(name, layers, attended)}": t for name, t in tensors.items()}


def vae_tensors(tensors: Tensors) -> dict[str, Tensor]:
    """Return an autoencoder's tensors by their original names."""
    blocks = 1 + max(int(match[3]) for match in map(_VAE_BLOCK.match, tensors) if match)
    return {f"{VAE_PREFIX}{_of_vae(name, blocks)}": _as_kernel(name, t) for name, t in tensors.items()}


def text_tensors(part: str, tensors: Tensors, family: Family, activation: str) -> dict[str, Tensor]:
    """Return a text encoder's tensors by their original names; `part` is its folder.

    `activation` tells OpenAI's network, `quick_gelu`, from OpenCLIP's, `gelu`.
    """
    tensors = {name.removeprefix("text_model."): t for name, t in tensors.items()}
    tensors.pop("embeddings.position_ids", None)  # of older files; not read
    open_clip = part == "text_encoder_2" or (not family.pooled and activation == "gelu")
    if not open_clip:
        place = "conditioner.embedders.0" if family.pooled else "cond_stage_model"
        return {f"{place}.transformer.text_model.{name}": t for name, t in tensors.items()}
    place = "conditioner.embedders.1" if family.pooled else "cond_stage_model"
    return {f"{place}.model.{name}": t for name, t in _of_open_clip(tensors).items()}


def prediction_marks(scheduler: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the tensors that mark a model trained for v prediction, and for a terminal SNR of zero."""
    marks = {
        "v_pred": scheduler.get("prediction_type") == "v_prediction",
        "ztsnr": bool(scheduler.get("rescale_betas_zero_snr")),
    }
    return {name: torch.ones(1) for name, is_marked in marks.items() if is_marked}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """Return a name whose first part, up to a dot or the end, is replaced by its entry."""
    for ours, theirs in names.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    return name


def _of_unet(name: str, layers: int, attended: set[str]) -> str:
    """Return the name in a UNet; `attended` are the numbers of up blocks with attention."""
    if match := _MIDDLE.fullmatch(name):
        kind, place, rest = match.groups()
        if kind == "attentions":
            return f"middle_block.{2 * int(place) + 1}.{rest}"
        return f"middle_block.{2 * int(place)}.{_renamed(rest, _RESNET)}"
    if not (match := _BLOCK.fullmatch(name)):
        return _renamed(name, _TOP)
    side, block, kind, place, rest = match.groups()
    start = int(block) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{start + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{start + layers}.{2 if block in attended else 1}.{rest}"
    where = (
        f"input_blocks.{start + int(place) + 1}" if side == "down" else f"output_blocks.{start + int(place)}"
    )
    return f"{where}.0.{_renamed(rest, _RESNET)}" if kind == "resnets" else f"{where}.1.{rest}"


def _of_vae(name: str, blocks: int) -> str:
    if match := _VAE_MIDDLE.fullmatch(name):
        half, kind, place, rest = match.groups()
        if kind == "attentions":
            return f"{half}.mid.attn_{int(place) + 1}.{_renamed(rest, _VAE_ATTENTION)}"
        return f"{half}.mid.block_{int(place) + 1}.{_renamed(rest, _VAE_RESNET)}"
    if match := _VAE_BLOCK.fullmatch(name):
        half, side, block, kind, place, rest = match.groups()
        number = int(block) if side == "down" else blocks - 1 - int(block)  # from the image inwards
        if kind == "resnets":
            return f"{half}.{side}.{number}.block.{place}.{_renamed(rest, _VAE_RESNET)}"
        return f"{half}.{side}.{number}.{side}sample.{rest}"
    return name.replace("conv_norm_out", "norm_out")


def _as_kernel(name: str, tensor: Tensor) -> Tensor:
    """Return a matrix of the autoencoder's attention as the 1x1 convolution that the original has."""
    is_matrix = ".attentions." in name and tensor.dim() == 2
    return tensor[:, :, None, None] if is_matrix else tensor


def _of_open_clip(tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors of a CLIP network as OpenCLIP has them: query, key and value in one matrix."""
    original: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _CLIP_LAYER.fullmatch(name)
        if name == "text_projection.weight":
            original["text_projection"] = tensor.T
        elif match is None:
            original[_renamed(name, _OPEN_CLIP)] = tensor
        elif match[2].startswith("self_attn.q_proj."):
            original[f"transformer.resblocks.{match[1]}.attn.in_proj_{name.rpartition('.')[2]}"] = torch.cat(
                [tensors[name.replace("q_proj", f"{role}_proj")] for role in "qkv"]
            )
        elif not re.match(r"self_attn\.[kv]_proj\.", match[2]):
            original[f"transformer.resblocks.{match[1]}.{_renamed(match[2], _OPEN_CLIP_LAYER)}"] = tensor
    return original
