"""A diffusers pipeline of SD v1's kind as one checkpoint file, in the names of the original code."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write(folder: Path, path: Path) -> None:
    """Denoiser, autoencoder and text encoder of a pipeline directory, in one .safetensors file."""
    parts = {part: _tensors(folder / part) for part in ("unet", "vae", "text_encoder")}
    unet = {f"model.diffusion_model.{_of_unet(name)}": t for name, t in parts["unet"].items()}
    vae = {f"first_stage_model.{_of_vae(name)}": _of_kernel(name, t) for name, t in parts["vae"].items()}
    text = {
        f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": t
        for name, t in parts["text_encoder"].items()
    }
    save_file({name: t.contiguous() for name, t in (unet | vae | text).items()}, path)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def _renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    return name


def _of_unet(name: str, layers: int = 1) -> str:
    top = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    if not name.startswith(("down_blocks", "up_blocks", "mid_block")):
        return _renamed(name, top)
    if name.startswith("mid_block"):
        _, kind, place, rest = name.split(".", 3)
        where = f"middle_block.{1 if kind == 'attentions' else 2 * int(place)}"
    else:
        side, block, kind, place, rest = name.split(".", 4)
        start = int(block) * (layers + 1)
        index = start + int(place) + (1 if side == "down_blocks" else 0)
        if kind == "downsamplers":
            return f"input_blocks.{start + layers + 1}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{start + layers}.{1 if block == '0' else 2}.{rest}"
        half = "input_blocks" if side == "down_blocks" else "output_blocks"
        where = f"{half}.{index}.{1 if kind == 'attentions' else 0}"
    return f"{where}.{_renamed(rest, _RESNET) if kind == 'resnets' else rest}"


def _of_vae(name: str, blocks: int = 4) -> str:
    half, *parts = name.split(".")
    if half not in ("encoder", "decoder"):
        return name
    rest = ".".join(parts)
    if parts[0] == "mid_block":
        kind, place, tail = parts[1], int(parts[2]), ".".join(parts[3:])
        if kind == "attentions":
            return f"{half}.mid.attn_1.{_renamed(tail, _VAE_ATTENTION)}"
        return f"{half}.mid.block_{place + 1}.{tail}"
    if parts[0] in ("down_blocks", "up_blocks"):
        side, block, kind, place = parts[0].split("_")[0], int(parts[1]), parts[2], parts[3]
        where = f"{half}.{side}.{block if side == 'down' else blocks - 1 - block}"
        tail = ".".join(parts[4:])
        if kind == "resnets":
            return f"{where}.block.{place}.{_renamed(tail, {'conv_shortcut': 'nin_shortcut'})}"
        return f"{where}.{side}sample.{tail}"
    return f"{half}.{rest.replace('conv_norm_out', 'norm_out')}"


def _of_kernel(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The original's attention of the autoencoder has 1x1 convolutions where diffusers has matrices."""
    attention = ".attentions." in name and tensor.dim() == 2
    return tensor[:, :, None, None] if attention else tensor
