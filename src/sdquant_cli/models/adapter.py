"""A LoRA adapter (Hu et al. 2021) fused into a model's weights, before the model is sampled or calibrated.

The steps are those of diffusers' `load_lora_weights`, one component at a time, so that the denoiser and the
text encoders are not in memory together. What diffusers would ignore silently raises UsageProblem.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UsageProblem, first_line
from .digest import file_digest
from .weights import is_finite

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from transformers import PreTrainedModel

Tensors = dict[str, Tensor]

_IN_FOLDER = "pytorch_lora_weights.safetensors"  # as diffusers saves it
_OTHER_KINDS = {  # by a part of their tensors' names
    "dora_scale": "DoRA, whose magnitudes diffusers leaves out",
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "lora_mid": "LoCon with a Tucker core",
    "lora_controlnet": "a ControlNet-LoRA",
    "oft_": "OFT",
    "bundle_emb": "an adapter with text embeddings of its own",
}
_HALF = re.compile(
    r"(?P<before>.*(?:lora_|[._]lora\.|layer\.))(?P<half>down|up|A|B)(?P<after>(?:\.\w+)?\.weight)"
)
_OTHER_HALF = {"down": "up", "up": "down", "A": "B", "B": "A"}


@dataclass(frozen=True)
class _Adapter:
    """An adapter with diffusers' tensor names, and the arguments that scale it."""

    path: str
    state: Tensors
    scales: dict[str, object]  # network alphas and metadata, arguments of diffusers' loaders

    def part(self, component: str) -> Tensors:
        """Return the tensors of a component, without its prefix."""
        prefix = f"{component}."
        tensors: Tensors = {}
        for name, tensor in self.state.items():
            if name.startswith(prefix):
                tensors[name.removeprefix(prefix)] = tensor
        return tensors

    def problem(self, reason: str) -> UsageProblem:
        return UsageProblem(f"--lora {self.path}: {reason}")


def digest(path: str) -> bytes:
    """Return the sha256 of the adapter's file."""
    return file_digest(_file(path))


def fuse_into_denoiser(
    pipeline_class: "type[DiffusionPipeline]", network: "ModelMixin", path: str, scale: float
) -> None:
    """Add the adapter's part for the denoiser, if it has one, to the weights, in place."""
    adapter = _read(pipeline_class, network.config, path)
    component = "unet" if hasattr(pipeline_class, "load_lora_into_unet") else "transformer"
    part = adapter.part(component)
    if not part:
        return
    _check_fit(adapter, _peft_names_of_denoiser(part), network, component)
    load = getattr(pipeline_class, f"load_lora_into_{component}")
    _load(adapter, partial(load, adapter.state, **adapter.scales, **{component: network}))
    network.fuse_lora(lora_scale=scale)
    network.unload_lora()


def fuse_into_text_encoders(
    pipeline: "DiffusionPipeline", config: Mapping[str, object], path: str, scale: float
) -> None:
    """Add the adapter's parts for text encoders, if it has any, to the weights, in place."""
    adapter = _read(type(pipeline), config, path)
    for component in ("text_encoder", "text_encoder_2"):
        part = adapter.part(component)
        if not part:
            continue
        encoder = getattr(pipeline, component)
        _check_fit(adapter, _peft_names_of_text_encoder(part, encoder), encoder, component)
        options = {"network_alphas": None, **adapter.scales, "text_encoder": encoder, "prefix": component}
        _load(adapter, partial(pipeline.load_lora_into_text_encoder, adapter.state, **options))
        pipeline.fuse_lora(components=[component], lora_scale=scale)
    pipeline.unload_lora_weights()


def _read(pipeline_class: "type[DiffusionPipeline]", config: Mapping[str, object], path: str) -> _Adapter:
    """Return the adapter in a file; raise UsageProblem if it is no LoRA or not for this pipeline."""
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

    file = _file(path)
    _check_tensors(path, file)
    options: dict[str, object] = {
        "local_files_only": True,
        "use_safetensors": True,
        "return_lora_metadata": True,
    }
    if issubclass(pipeline_class, StableDiffusionXLLoraLoaderMixin):
        options["unet_config"] = config  # the original code numbers its blocks differently
    try:
        state, *scales = pipeline_class.lora_state_dict(str(file), **options)
    except Exception as error:
        raise UsageProblem(f"--lora {path}: diffusers cannot read it ({_short(error)})") from None
    names = ("network_alphas", "metadata") if len(scales) == 2 else ("metadata",)
    adapter = _Adapter(path, state, dict(zip(names, scales, strict=True)))
    _check_components(adapter, pipeline_class)
    return adapter


def _check_tensors(path: str, file: Path) -> None:
    """Raise UsageProblem unless a file consists of pairs of finite matrices."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UsageProblem(f"--lora {path}: {first_line(error)}") from None
    for mark, kind in _OTHER_KINDS.items():
        for name in tensors:
            if mark in name:
                raise UsageProblem(f"--lora {path}: is {kind} ({name}); expected LoRA")
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise UsageProblem(f"--lora {path}: {name} has numbers that are not finite (NaN or infinity)")
        if name.endswith(".alpha") and tensor.numel() != 1:
            raise UsageProblem(f"--lora {path}: {name} has {tensor.numel()} numbers; expected one")
        if match := _HALF.fullmatch(name):
            _check_pair(path, tensors, match)


def _check_pair(path: str, tensors: Tensors, match: re.Match[str]) -> None:
    """Raise UsageProblem unless both matrices of a pair exist and can be multiplied."""
    name, half = match[0], match["half"]
    other = f"{match['before']}{_OTHER_HALF[half]}{match['after']}"
    if other not in tensors:
        raise UsageProblem(f"--lora {path}: has {name}, and not the other half {other}")
    if not tensors[name].is_floating_point():
        raise UsageProblem(f"--lora {path}: {name} is {tensors[name].dtype}; expected floating-point numbers")
    down, up = (name, other) if half in ("down", "A") else (other, name)
    shapes = tuple(tensors[down].shape), tuple(tensors[up].shape)
    if min(map(len, shapes)) < 2 or shapes[0][0] != shapes[1][1]:
        raise UsageProblem(
            f"--lora {path}: {name} and its other half have shapes {list(tensors[name].shape)} and "
            f"{list(tensors[other].shape)}; expected two matrices of the same rank"
        )


def _check_components(adapter: _Adapter, pipeline_class: "type[DiffusionPipeline]") -> None:
    components = pipeline_class._lora_loadable_modules
    if not adapter.state:
        raise adapter.problem("is empty")
    for name in adapter.state:
        if "lora" not in name:
            raise adapter.problem(f"{name} is no part of a LoRA")
        if name.split(".")[0] not in components:
            raise adapter.problem(
                f"{name} is for no component of a {pipeline_class.__name__} ({', '.join(components)}); "
                f"is the adapter for another family?"
            )


def _check_fit(
    adapter: _Adapter, part: Tensors, network: "ModelMixin | PreTrainedModel", component: str
) -> None:
    """Raise UsageProblem unless the network has every layer of an adapter's part, in its size."""
    for name, tensor in part.items():
        layer, _, rest = name.partition(".lora_")
        try:
            weight = network.get_submodule(layer).weight
        except AttributeError:
            raise adapter.problem(
                f"the {component} of this model has no {layer}; is the adapter for another family?"
            ) from None
        axis = {"A": 1, "B": 0}.get(rest.split(".")[0])
        if axis is None or not rest.endswith("weight"):
            continue
        if tensor.shape[axis] != weight.shape[axis]:
            raise adapter.problem(
                f"{layer} of the {component} has {weight.shape[axis]} channels, and the adapter's "
                f"{tensor.shape[axis]}; is it for another family?"
            )


def _peft_names_of_denoiser(part: Tensors) -> Tensors:
    from diffusers.utils import convert_unet_state_dict_to_peft

    return part if "lora_A" in next(iter(part)) else convert_unet_state_dict_to_peft(part)


def _peft_names_of_text_encoder(part: Tensors, encoder: "PreTrainedModel") -> Tensors:
    from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft

    renamed = convert_state_dict_to_peft(convert_state_dict_to_diffusers(part))
    if hasattr(encoder, "text_model"):
        return renamed
    return {name.removeprefix("text_model."): tensor for name, tensor in renamed.items()}


def _load(adapter: _Adapter, load: Callable[[], None]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            load()
        except Exception as error:
            raise adapter.problem(f"diffusers cannot load it ({_short(error)})") from None
    if any("alpha_pattern" in str(warning.message) for warning in caught):
        raise adapter.problem(
            "layers of the text encoder have different alphas, which diffusers does not apply; expected one "
            "alpha, or none and the scale in the matrices"
        )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _file(path: str) -> Path:
    file = Path(path)
    if file.is_dir():
        file = file / _IN_FOLDER
    if not file.is_file() or file.suffix != ".safetensors":
        raise UsageProblem(f"--lora {path}: expected a .safetensors file, or a folder with {_IN_FOLDER}")
    return file
