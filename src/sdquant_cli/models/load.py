"""Load a model's parts, one at a time, so that only what is needed is in memory."""

import copy
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UsageProblem, first_line
from ..manifests import ModelRef, Setting
from ..types import Dtype, Scheduler
from . import adapter, samplers
from .attention import attention_taps
from .configuration import Defaults
from .digest import digest_of, files_read
from .families import NORMALISING, Family
from .folder import (
    INDEX,
    SCHEDULER_FILE,
    Json,
    check_folder,
    read_defaults,
    read_json,
    text_parts,
    tokenizer_of,
    with_defaults,
)
from .layers import projections, quantizable_layers, time_layers
from .pipelines import no_components, pipeline_class_of, safety_checker_off
from .shortcuts import split_shortcuts
from .source import EMBEDDED, EMBEDDED_FOLDER, ModelName, locate
from .text import check_vocabulary, load_tokenizer
from .uninterrupted import uninterrupted
from .weights import check_finite, check_headers, count_numbers, need_weights, read_tensors

__all__ = ["EMBEDDED", "EMBEDDED_FOLDER", "Model", "ModelName", "find_model"]

TORCH_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16, Dtype.FP16: torch.float16}


class Model:
    """A pipeline directory; components are read when asked for and belong to the caller."""

    def __init__(self, name: ModelName, folder: Path, *, split_shortcuts: bool = False) -> None:
        self.name, self.folder, self.split_shortcuts = name, folder, split_shortcuts
        self.family: Family = check_folder(folder, name.source, name.variant)
        self._check_configuration()

    def split(self) -> "Model":
        """The same model with its shortcut convolutions in two."""
        return Model(self.name, self.folder, split_shortcuts=True)

    @property
    def source(self) -> str:
        return self.name.source

    @cached_property
    def ref(self) -> ModelRef:
        """Source and digest: sha256 over the paths and contents of all files that are read."""
        parts = {*self.family.parts, *self.text_parts, *self._tokenizers}
        files = [path for part in parts for path in files_read(self.folder / part, self.name.variant)]
        total = digest_of(self.folder, files)
        if self.name.lora:
            total.update(f"adapter {self.name.lora_scale} ".encode() + adapter.digest(self.name.lora))
        return ModelRef(digest=total.hexdigest(), **asdict(self.name))

    @cached_property
    def defaults(self) -> Defaults:
        """Defaults that the model draws with."""
        return read_defaults(self.folder, self.family)

    @property
    def prompts_file(self) -> Path | None:
        """The model's own held-out prompts, if it brings any."""
        return self.folder / self.defaults.prompts if self.defaults.prompts else None

    # ------------------------------------------------------------ what configurations say

    @property
    def text_parts(self) -> list[str]:
        """Folders of the text encoders that are there."""
        return text_parts(self._index, self.family)

    @property
    def other_parts(self) -> list[str]:
        """Folders of all components but denoiser and scheduler."""
        parts = {*self.family.parts, *self.text_parts, *self._tokenizers}
        return sorted(parts - {self.family.folder, "scheduler"})

    @property
    def _tokenizers(self) -> list[str]:
        return [tokenizer_of(name) for name in self.text_parts]

    @cached_property
    def config(self) -> Json:
        """The denoiser's configuration, defaults of its class included."""
        return self._config(self.family.folder)

    @cached_property
    def default_size(self) -> tuple[int, int]:
        """Height and width of the pictures the model was trained on, in pixels."""
        size = self.config["sample_size"]
        height, width = [size, size] if isinstance(size, int) else size
        return height * self.latent_factor, width * self.latent_factor

    @cached_property
    def latent_factor(self) -> int:
        """Pixels per latent cell along one side."""
        return 2 ** (len(self._config("vae")["block_out_channels"]) - 1)

    @property
    def multiple(self) -> int:
        """Pixels that the sides of a picture are multiples of."""
        return self.latent_factor * self.family.denoiser.multiple(self.config)

    @property
    def text_shape(self) -> tuple[int, int]:
        """Tokens and channels of a text embedding."""
        return self.family.denoiser.text_shape(self.config, self.tokenizer().model_max_length)

    @property
    def pooled_width(self) -> int | None:
        """Channels of the pooled text, None for a family that takes none."""
        return self.family.denoiser.pooled_width(self.config) if self.family.pooled else None

    @cached_property
    def time_widths(self) -> list[int]:
        """Output channels of each projection of the time path, in module order."""
        return [layer.out_features for layer in projections(self.skeleton).values()]

    @property
    def embedding_width(self) -> int:
        """Channels of the time embedding."""
        return next(iter(projections(self.skeleton).values())).in_features

    @property
    def shifts_by_resolution(self) -> bool:
        """Whether a picture's size decides the timesteps."""
        return bool(self._config("scheduler", "scheduler_config.json").get("use_dynamic_shifting"))

    @cached_property
    def time_parameters(self) -> int:
        """Parameters of the time path."""
        return sum(p.numel() for layer in time_layers(self.skeleton).values() for p in layer.parameters())

    @cached_property
    def layer_shapes(self) -> dict[str, torch.Size]:
        """Weight shapes of the quantizable layers, in module order."""
        return {name: layer.weight.shape for name, layer in quantizable_layers(self.skeleton).items()}

    @cached_property
    def attention_taps(self) -> list[str]:
        """Where attention's products can be rounded, in module order; none if it is not the UNets' kind."""
        return attention_taps(self.skeleton)

    @cached_property
    def skeleton(self) -> Any:
        """The denoiser without numbers: no weights are read."""
        with torch.device("meta"):
            try:
                network: Any = self._denoiser_class.from_config(self.config)
            except Exception as error:
                cls, path = self.family.denoiser.cls, self.folder / self.family.folder / "config.json"
                raise UsageProblem(f"{path}: {cls} refuses it ({_reason(error)})") from None
            if self.split_shortcuts:
                split_shortcuts(network)
        return network

    @property
    def text_parameters(self) -> dict[str, int]:
        """Numbers of each text encoder, by its folder."""
        return {part: count_numbers(self.folder / part, self.name.variant) for part in self.text_parts}

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape (C,h,w) of one latent of a picture of height x width pixels."""
        factor = self.latent_factor
        return int(self.config["in_channels"]), height // factor, width // factor

    # ------------------------------------------------------------ components

    @uninterrupted()
    def denoiser(self, dtype: Dtype = Dtype.FP32, device: str = "cpu") -> nn.Module:
        """The denoiser in eval mode, without gradients, an adapter fused into it."""
        network = self._load(self._denoiser_class, self.family.folder, TORCH_DTYPES[dtype])
        if self.name.lora:
            adapter.fuse_into_denoiser(self.pipeline_class, network, self.name.lora, self.lora_scale)
            check_finite(network, self.folder / self.family.folder, self.name.variant)
        if self.split_shortcuts:
            split_shortcuts(network)
        return network.to(device)

    @uninterrupted()
    def time_path(self) -> nn.Module:
        """The denoiser in fp32 with numbers in its time path alone: the rest is not read.

        Nor are the projections of a family whose prompts enter before them.
        """
        if self.name.lora:  # may be in any layer
            return self.denoiser()
        network = copy.deepcopy(self.skeleton)
        layers = time_layers(network).keys() - (projections(network).keys() if self.family.pooled else ())
        wanted = {f"{name}.{part}" for name in layers for part in network.get_submodule(name).state_dict()}
        tensors = {name: tensor.float() for name, tensor in self.tensors(wanted).items()}
        try:
            network.load_state_dict(tensors, strict=False, assign=True)
        except RuntimeError as error:
            raise UsageProblem(f"{self.folder / self.family.folder}: {_reason(error)}") from None
        return network.eval().requires_grad_(False)

    @uninterrupted()
    def tensors(self, names: set[str]) -> dict[str, torch.Tensor]:
        """Single tensors of the denoiser, an adapter fused into them; the rest is not read."""
        if self.name.lora:
            state = self.denoiser().state_dict()
            return {name: state[name] for name in names}
        return read_tensors(self.folder / self.family.folder, self.name.variant, names)

    @uninterrupted()
    def vae(self, device: str = "cpu") -> nn.Module:
        """The autoencoder, always fp32: its decoder overflows in fp16 on some models.

        What the family's pipeline leaves unread of its configuration is None.
        """
        import diffusers

        vae: Any = self._load(getattr(diffusers, self._index["vae"][1]), "vae", torch.float32)
        unread = [name for name in NORMALISING if name not in self.family.normalised]
        vae.register_to_config(**dict.fromkeys(unread))
        return vae.to(device)

    @uninterrupted()
    def text_pipeline(self, device: str = "cpu") -> Any:
        """The pipeline with its text encoders alone: diffusers' own way from prompts to embeddings."""
        import transformers

        parts = no_components(self.pipeline_class)
        for name in self.text_parts:
            # T5 has 4.8 billion parameters and is used in half precision everywhere
            dtype = torch.bfloat16 if name == "text_encoder_3" else torch.float32
            cls = getattr(transformers, self._index[name][1])
            encoder: Any = self._load(cls, name, dtype)
            parts[name] = encoder.to(device)
            tokenizer = self.tokenizer(tokenizer_of(name))
            check_vocabulary(tokenizer, encoder.config, self.folder / tokenizer_of(name))
            parts[tokenizer_of(name)] = tokenizer
        if "text_encoder_3" not in self.text_parts and "text_encoder_3" in parts:
            parts[self.family.folder] = self.skeleton  # asked for its width where T5 is absent
        options = {n: value for n, value in self._index.items() if n in parts and isinstance(value, bool)}
        parts |= options | safety_checker_off(self.pipeline_class)
        pipeline = self.pipeline_class(**parts)
        if self.name.lora:
            config = self.skeleton.config
            adapter.fuse_into_text_encoders(pipeline, config, self.name.lora, self.lora_scale)
        return pipeline

    def tokenizer(self, part: str = "tokenizer") -> Any:
        """The tokenizer of a text encoder."""
        return load_tokenizer(self._index[part][1], self.folder / part)

    def sampler(self, setting: Setting) -> samplers.Sampler:
        """A sampler of this model's noise schedule at the beginning of a trajectory."""
        _, h, w = self.latent_shape(setting.height, setting.width)
        patch = int(self.config.get("patch_size") or 1)
        return self._samplers.begin(setting.scheduler, setting.steps, (h // patch) * (w // patch))

    def rehearse(self, setting: Setting) -> None:
        """Raise UsageProblem for a sampler that cannot run all its steps; takes milliseconds."""
        channels = int(self.config["in_channels"])
        predicted = int(self.config.get("out_channels") or channels)
        samplers.rehearse(self.sampler(setting), setting.steps, channels, predicted)

    @property
    def default_scheduler(self) -> str:
        """The sampler the model was published with: its short name, or its class where it has none."""
        try:
            return Scheduler.parse(self._index["scheduler"][1])
        except ValueError as error:
            raise UsageProblem(f"{self.folder / INDEX}: scheduler: {error}") from None

    @cached_property
    def _samplers(self) -> samplers.Samplers:
        config, where = self._config("scheduler", SCHEDULER_FILE), self.folder / "scheduler" / SCHEDULER_FILE
        return samplers.Samplers(self.family, self.default_scheduler, config, where)

    @property
    def lora_scale(self) -> float:
        return 1.0 if self.name.lora_scale is None else self.name.lora_scale

    @property
    def pipeline_class(self) -> Any:
        return pipeline_class_of(self.family)

    @property
    def _denoiser_class(self) -> Any:
        import diffusers

        return getattr(diffusers, self.family.denoiser.cls)

    def _check_configuration(self) -> None:
        path = self.folder / self.family.folder / "config.json"
        config = read_json(path)
        for name, allowed in self.family.denoiser.supported.items():
            if (value := config.get(name, allowed[0])) not in allowed:
                raise UsageProblem(f"{path}: {name} is {value}; supported: {', '.join(map(str, allowed))}")

    @cached_property
    def _index(self) -> Json:
        """model_index.json: classes of components, and the pipeline's own options."""
        return read_json(self.folder / INDEX)

    def _config(self, part: str, name: str = "config.json") -> Json:
        """A component's configuration, as the class that the index names takes it."""
        config = read_json(self.folder / part / name)
        cls = self._index[part][1]
        if name == SCHEDULER_FILE:
            return config | {"_class_name": cls}
        return with_defaults(cls, config)

    def _load(self, cls: Any, part: str, dtype: torch.dtype) -> nn.Module:
        folder = self.folder / part
        weights = need_weights(folder, self.name.variant)
        check_headers(weights)
        try:
            module, info = cls.from_pretrained(
                folder,
                dtype=dtype,
                variant=weights.variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:
            if _out_of_memory(error):
                raise
            raise UsageProblem(f"{folder}: {_reason(error)}") from None
        for problem in ("missing_keys", "unexpected_keys"):
            # older CLIP checkpoints hold the numbers 0..76 as a tensor
            if names := sorted(n for n in info.get(problem, ()) if not n.endswith("position_ids")):
                raise UsageProblem(
                    f"{folder}: {len(names)} {problem.replace('_keys', '')} tensors, the first {names[0]}; "
                    f"the weights are not those of its config.json"
                )
        check_finite(module, folder, self.name.variant)
        loaded: nn.Module = module.eval().requires_grad_(False)
        return loaded


def _reason(error: Exception) -> str:
    """Return why a library refuses: the first line, with the next where that one only announces it."""
    if "ignore_mismatched_sizes" in str(error):
        return "tensors have other shapes than its config.json says"
    lines = str(error).split("\n")
    return " ".join(lines[:2]) if lines[0].endswith(":") else first_line(error)


def _out_of_memory(error: Exception) -> bool:
    is_of_torch = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return is_of_torch or isinstance(error, MemoryError)


def find_model(name: ModelName | str, *, fetch: bool = True) -> Model:
    """Return a model by its name, or by its source alone.

    A Hub id is taken from the local cache or, with `fetch`, from the network.
    """
    if isinstance(name, str):
        name = ModelName(name)
    return Model(name, locate(name, fetch=fetch))
