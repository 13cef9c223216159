"""Which modules of a denoiser are quantized, and which belong to its time path."""

from typing import Any

from torch import nn

PROJECTION = "time_emb_proj"
TIME_PATH = ("time_embedding", "add_embedding", PROJECTION)
TEXT_FED = ("attn2.to_k", "attn2.to_v")  # their input is the prompt: the same at every step


def quantizable_layers(unet: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Every nn.Linear and nn.Conv2d outside the time path, by module path (258 in SD v1-4)."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and not any(part in TIME_PATH for part in name.split("."))
    }


def time_layers(unet: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the time path, by module path (24 in SD v1-4)."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and any(part in TIME_PATH for part in name.split("."))
    }


def is_text_fed(name: str) -> bool:
    """Whether a layer sees only the prompt."""
    return name.endswith(TEXT_FED)


def block_names(unet: Any) -> list[str]:
    """The down blocks, the mid block and the up blocks."""
    down = [f"down_blocks.{i}" for i in range(len(unet.down_blocks))]
    return [*down, "mid_block", *(f"up_blocks.{i}" for i in range(len(unet.up_blocks)))]
