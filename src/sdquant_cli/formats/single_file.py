"""A pipeline as one safetensors file in the original code's names: UNet, autoencoder and text encoders.

Weights are fp16 on their grids, or int8 where ComfyUI computes with them. ComfyUI's `int8_tensorwise` has
three tensors for a linear layer: `weight` int8 (C_out,C_in), `weight_scale` fp32 (C_out,1) and `comfy_quant`,
the bytes of a JSON object that names the format. Its inputs are rounded row by row when it runs.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UsageProblem
from ..models import original_names
from ..models.load import Model
from ..models.weights import is_finite
from ..paths import partial_file, sync
from ..quant.state import State
from .limits import fits_int8

METADATA = "sdquant"  # one entry: with several, their order in the file is random
_COMFY = json.dumps({"format": "int8_tensorwise"}).encode()


def write(path: Path, model: Model, state: State, recipe: Mapping[str, object], *, int8: bool) -> None:
    """Write the file of a model with a state's weights; it is there whole or not at all.

    Linear layers are stored as ComfyUI's int8 with `int8`. Raises UsageProblem for a model that the layout
    does not hold, and for a number beyond fp16.
    """
    original_names.check_layout(model.family, model.config, model.index["vae"][1])
    unet = _denoiser(model, state, int8=int8)
    tensors = original_names.unet_tensors(unet, model.config["layers_per_block"])
    tensors |= original_names.vae_tensors(_half(model.vae().state_dict(), "vae"))
    pipeline = model.text_pipeline()
    for part in model.text_parts:
        encoder = getattr(pipeline, part)
        tensors |= original_names.text_tensors(
            part, _half(encoder.state_dict(), part), model.family, encoder.config.hidden_act
        )
    tensors |= original_names.prediction_marks(model.component_config("scheduler"))
    metadata = {METADATA: json.dumps(recipe, sort_keys=True)}
    with partial_file(path) as partial:
        save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, partial, metadata)
        sync(partial)


def _denoiser(model: Model, state: State, *, int8: bool) -> dict[str, Tensor]:
    """Return the UNet's tensors in diffusers' names, quantized layers on their grids."""
    kept = model.tensors(set(model.skeleton.state_dict()) - {f"{name}.weight" for name in state})
    tensors = _half(kept, model.family.folder)
    for name, layer in state.items():
        if int8 and fits_int8(layer):
            tensors[f"{name}.weight"] = layer.codes
            tensors[f"{name}.weight_scale"] = layer.weight_step[:, None].float()
            tensors[f"{name}.comfy_quant"] = torch.tensor(list(_COMFY), dtype=torch.uint8)
        else:
            tensors |= _half({f"{name}.weight": layer.whole_weight()}, model.family.folder)
    return tensors


def _half(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return tensors in fp16; raise UsageProblem for one that overflows it."""
    halves = {}
    for name, tensor in tensors.items():
        halves[name] = tensor.half()
        if not is_finite(halves[name]):
            raise UsageProblem(f"--format: {part}: {name} overflows fp16; export with --format packed")
    return halves
