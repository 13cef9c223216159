"""Load a model's parts, one at a time, so that only what is needed is in memory."""

import copy
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UsageProblem
from ..manifests import ModelRef, Setting
from ..types import Dtype, Scheduler
from . import adapter, samplers
from .attention import attention_places
from .families import AUTOENCODERS, NORMALISING, Family
from .layers import projections, quantizable_layers, time_layers
from .pipelines import no_components, pipeline_class_of
from .shortcuts import split_shortcuts
from .source import DEFAULTS_FILE, EMBEDDED, EMBEDDED_FOLDER, INDEX, family_in, locate
from .uninterrupted import uninterrupted
from .weights import check_finite, count_numbers, read_tensors, refuse_pickles

__all__ = ["EMBEDDED", "EMBEDDED_FOLDER", "Model", "find_model"]

TORCH_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16, Dtype.FP16: torch.float16}


@dataclass(frozen=True)
class Defaults:
    """What a model draws with unless told otherwise."""

    guidance_scale: float
    steps: int
    prompts: str | None = None  # a file of held-out prompts, relative to the model


@dataclass(frozen=True)
class Named:
    """A model as the user named it."""

    source: str
    revision: str | None = None
    variant: str | None = None
    base: str | None = None
    lora: str | None = None
    lora_scale: float | None = None


class Model:
    """A pipeline directory; components are read when asked for and belong to the caller."""

    def __init__(self, named: Named, folder: Path, *, split_shortcuts: bool = False) -> None:
        self.named, self.folder, self.split_shortcuts = named, folder, split_shortcuts
        self.family: Family = family_in(folder, named.source)
        self._check_configuration()

    def split(self) -> "Model":
        """The same model with its shortcut convolutions in two."""
        return Model(self.named, self.folder, split_shortcuts=True)

    @property
    def source(self) -> str:
        return self.named.source

    @cached_property
    def ref(self) -> ModelRef:
        """Source and digest: sha256 over the paths and contents of all component files."""
        total = hashlib.sha256()
        parts = {*self.family.parts, *self.text_parts, *self._tokenizers}
        for path in sorted(p for part in parts for p in (self.folder / part).rglob("*") if p.is_file()):
            with path.open("rb") as file:
                total.update(f"{path.relative_to(self.folder)} ".encode())
                total.update(hashlib.file_digest(file, "sha256").digest())
        if self.named.lora:
            total.update(f"lora {self.named.lora_scale} ".encode() + adapter.digest(self.named.lora))
        fields = {name: getattr(self.named, name) for name in Named.__dataclass_fields__}
        return ModelRef(digest=total.hexdigest(), **fields)

    @cached_property
    def defaults(self) -> Defaults:
        own = {"guidance_scale": self.family.guidance_scale, "steps": self.family.steps}
        path = self.folder / DEFAULTS_FILE
        if not path.exists():
            return Defaults(**own)  # type: ignore[arg-type]
        try:
            return Defaults(**{**own, **json.loads(path.read_text())})
        except (TypeError, ValueError) as error:
            raise UsageProblem(f"{path}: {error}") from None

    @property
    def prompts_file(self) -> Path | None:
        """The model's own held-out prompts, if it brings any."""
        return self.folder / self.defaults.prompts if self.defaults.prompts else None

    # ------------------------------------------------------------ what configurations say

    @property
    def text_parts(self) -> list[str]:
        """Folders of the text encoders that are there."""
        return [name for name in self.family.texts if (self.folder / name).is_dir()]

    @property
    def other_parts(self) -> list[str]:
        """Folders of all components but denoiser and scheduler."""
        parts = {*self.family.parts, *self.text_parts, *self._tokenizers}
        return sorted(parts - {self.family.folder, "scheduler"})

    @property
    def _tokenizers(self) -> list[str]:
        return [_tokenizer_of(name) for name in self.text_parts]

    @cached_property
    def config(self) -> dict[str, Any]:
        """Of the denoiser."""
        return self._config(self.family.folder)

    @cached_property
    def default_size(self) -> tuple[int, int]:
        """Height and width of the pictures the model was trained on, in pixels."""
        size = self.config.get("sample_size")
        sides = [size, size] if isinstance(size, int) else size
        if not (isinstance(sides, list) and len(sides) == 2 and all(map(_is_side, sides))):
            raise UsageProblem(
                f"{self.folder / self.family.folder / 'config.json'}: sample_size is {size}; expected an "
                f"integer, or height and width in latent cells"
            )
        height, width = sides
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
    def attention_places(self) -> list[str]:
        """Where attention's products can be rounded, in module order; none if it is not the UNets' kind."""
        return attention_places(self.skeleton)

    @cached_property
    def skeleton(self) -> nn.Module:
        """The denoiser without numbers: no weights are read."""
        with torch.device("meta"):
            network: nn.Module = self._denoiser_class.from_config(self.config)
            if self.split_shortcuts:
                split_shortcuts(network)
        return network

    @property
    def text_parameters(self) -> dict[str, int]:
        """Numbers of each text encoder, by its folder."""
        return {part: count_numbers(self.folder / part, self.named.variant) for part in self.text_parts}

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape (C,h,w) of one latent of a picture of height x width pixels."""
        factor = self.latent_factor
        return int(self.config["in_channels"]), height // factor, width // factor

    # ------------------------------------------------------------ components

    @uninterrupted()
    def denoiser(self, dtype: Dtype = Dtype.FP32, device: str = "cpu") -> nn.Module:
        """The denoiser in eval mode, without gradients, an adapter fused into it."""
        network = self._load(self._denoiser_class, self.family.folder, TORCH_DTYPES[dtype])
        if self.named.lora:
            adapter.fuse_into_denoiser(self.pipeline_class, network, self.named.lora, self.lora_scale)
        check_finite(network, self.folder / self.family.folder, dtype)
        if self.split_shortcuts:
            split_shortcuts(network)
        return network.to(device)

    @uninterrupted()
    def time_path(self) -> nn.Module:
        """The denoiser in fp32 with numbers in its time path alone: the rest is not read.

        Nor are the projections of a family whose prompts enter before them.
        """
        if self.named.lora:  # may be in any layer
            return self.denoiser()
        network = copy.deepcopy(self.skeleton)
        layers = time_layers(network).keys() - (projections(network).keys() if self.family.pooled else ())
        wanted = {f"{name}.{part}" for name in layers for part in network.get_submodule(name).state_dict()}
        tensors = {name: tensor.float() for name, tensor in self.tensors(wanted).items()}
        network.load_state_dict(tensors, strict=False, assign=True)
        return network.eval().requires_grad_(False)

    @uninterrupted()
    def tensors(self, names: set[str]) -> dict[str, torch.Tensor]:
        """Single tensors of the denoiser, an adapter fused into them; the rest is not read."""
        if self.named.lora:
            state = self.denoiser().state_dict()
            return {name: state[name] for name in names}
        return read_tensors(self.folder / self.family.folder, self.named.variant, names)

    @uninterrupted()
    def vae(self, device: str = "cpu") -> nn.Module:
        """The autoencoder, always fp32: its decoder overflows in fp16 on some models.

        What the family's pipeline leaves unread of its configuration is None.
        """
        vae: Any = self._load(self._vae_class, "vae", torch.float32)
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
            parts[name] = self._load(cls, name, dtype).to(device)
            tokenizer = _tokenizer_of(name)
            cls = getattr(transformers, self._index[tokenizer][1])
            parts[tokenizer] = cls.from_pretrained(self.folder / tokenizer, local_files_only=True)
        if "text_encoder_3" not in self.text_parts and "text_encoder_3" in parts:
            parts[self.family.folder] = self.skeleton  # asked for its width where T5 is absent
        options = {n: value for n, value in self._index.items() if n in parts and not isinstance(value, list)}
        parts |= options | {n: False for n in parts if n == "requires_safety_checker"}
        pipeline = self.pipeline_class(**parts)
        if self.named.lora:
            adapter.fuse_into_text_encoders(pipeline, self.named.lora, self.lora_scale)
        return pipeline

    def tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)

    def sampler(self, setting: Setting) -> Any:
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
            return Scheduler.parse(self._class_of("scheduler"))
        except ValueError as error:
            raise UsageProblem(f"{self.folder / INDEX}: scheduler: {error}") from None

    @cached_property
    def _samplers(self) -> samplers.Samplers:
        file = "scheduler_config.json"
        config, where = self._config("scheduler", file), self.folder / "scheduler" / file
        return samplers.Samplers(self.family, self.default_scheduler, config, where)

    def _class_of(self, part: str) -> str:
        """The class that model_index.json names for a component."""
        entry = self._index.get(part)
        return str(entry[1] if isinstance(entry, list) and len(entry) == 2 else entry)

    @property
    def _vae_class(self) -> Any:
        import diffusers

        name = self._class_of("vae")
        if name not in AUTOENCODERS:
            raise UsageProblem(
                f"{self.folder / INDEX}: vae is {name}; expected one of {', '.join(AUTOENCODERS)}"
            )
        return getattr(diffusers, name)

    @property
    def lora_scale(self) -> float:
        return 1.0 if self.named.lora_scale is None else self.named.lora_scale

    @property
    def pipeline_class(self) -> Any:
        return pipeline_class_of(self.family)

    @property
    def _denoiser_class(self) -> Any:
        import diffusers

        return getattr(diffusers, self.family.denoiser.cls)

    def _check_configuration(self) -> None:
        _ = self._vae_class  # refuses what is not drawn
        for name, allowed in self.family.denoiser.supported.items():
            if (found := self.config.get(name, allowed[0])) not in allowed:
                raise UsageProblem(
                    f"{self.folder / self.family.folder / 'config.json'}: {name} is {found}; "
                    f"supported: {', '.join(map(str, allowed))}"
                )

    @cached_property
    def _index(self) -> dict[str, Any]:
        """model_index.json: classes of components, and the pipeline's own options."""
        return self._config(".", INDEX)

    def _config(self, part: str, name: str = "config.json") -> dict[str, Any]:
        path = self.folder / part / name
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UsageProblem(f"{path}: {str(error).splitlines()[0]}") from None

    def _load(self, cls: Any, part: str, dtype: torch.dtype) -> nn.Module:
        folder = self.folder / part
        refuse_pickles(folder)
        try:
            module, info = cls.from_pretrained(
                folder,
                dtype=dtype,
                variant=self.named.variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageProblem(f"{folder}: {str(error).splitlines()[0]}") from None
        for problem in ("missing_keys", "unexpected_keys"):
            # older CLIP checkpoints hold the numbers 0..76 as a tensor
            if names := sorted(n for n in info.get(problem, ()) if not n.endswith("position_ids")):
                raise UsageProblem(
                    f"{folder}: {len(names)} {problem.replace('_keys', '')} tensors, the first {names[0]}; "
                    f"the weights are not those of its config.json"
                )
        loaded: nn.Module = module.eval().requires_grad_(False)
        return loaded


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _tokenizer_of(text_encoder: str) -> str:
    return text_encoder.replace("text_encoder", "tokenizer")


def find_model(
    source: str,
    revision: str | None = None,
    variant: str | None = None,
    base: str | None = None,
    lora: str | None = None,
    lora_scale: float | None = None,
) -> Model:
    """The model of a directory, a single file, a Hub id (from the local cache or the network) or `shapes`."""
    named = Named(source, revision, variant, base, lora, lora_scale)
    return Model(named, locate(source, revision, variant, base))
