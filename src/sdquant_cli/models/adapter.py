"""A LoRA adapter fused into a model's weights: what is sampled and calibrated is the adapted model."""

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UsageProblem

_IN_FOLDER = "pytorch_lora_weights.safetensors"  # as diffusers saves it


def digest(path: str) -> bytes:
    """sha256 of the adapter's file."""
    with _file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def fuse_into_denoiser(pipeline_class: Any, network: nn.Module, path: str, scale: float) -> None:
    """Add the adapter's part for the denoiser to its weights, in place."""
    state, options = _state(pipeline_class, path)
    into = getattr(pipeline_class, "load_lora_into_unet", None) or pipeline_class.load_lora_into_transformer
    try:
        into(state, **options, **{_name(pipeline_class): network})
    except (ValueError, KeyError, RuntimeError) as error:
        raise UsageProblem(f"--lora {path}: {str(error).splitlines()[0]}") from None
    if not getattr(network, "peft_config", None):
        raise UsageProblem(f"--lora {path}: has nothing for the denoiser of a {pipeline_class.__name__}")
    network.fuse_lora(lora_scale=scale)  # type: ignore[operator]
    network.unload_lora()  # type: ignore[operator]


def fuse_into_text_encoders(pipeline: Any, path: str, scale: float) -> None:
    """Add the adapter's parts for text encoders, if it has any, to their weights, in place."""
    state, options = _state(type(pipeline), path)
    for name in ("text_encoder", "text_encoder_2"):
        if any(key.startswith(f"{name}.") for key in state):
            encoder = getattr(pipeline, name)
            pipeline.load_lora_into_text_encoder(state, **options, text_encoder=encoder, prefix=name)
            pipeline.fuse_lora(components=[name], lora_scale=scale)
    pipeline.unload_lora_weights()


def _name(pipeline_class: Any) -> str:
    return "unet" if hasattr(pipeline_class, "load_lora_into_unet") else "transformer"


def _state(pipeline_class: Any, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The adapter's tensors in diffusers' names, and its network alphas where the pipeline takes them."""
    try:
        found = pipeline_class.lora_state_dict(str(_file(path)), local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UsageProblem(f"--lora {path}: {str(error).splitlines()[0]}") from None
    if isinstance(found, tuple):
        return found[0], {"network_alphas": found[1]}
    return found, {}


def _file(path: str) -> Path:
    file = Path(path)
    if file.is_dir():
        file = file / _IN_FOLDER
    if not file.is_file() or file.suffix != ".safetensors":
        raise UsageProblem(f"--lora {path}: expected a .safetensors file, or a folder with {_IN_FOLDER}")
    return file
