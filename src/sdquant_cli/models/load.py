"""Load a model's components, one at a time, so that only what is needed is in memory."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import UsageProblem
from ..manifests import ModelRef, Setting
from ..types import Dtype
from . import adapter
from .conditioning import Conditioning, size_ids
from .context import box_contexts
from .description import ModelDescription
from .digest import digest_of, files_read
from .families import NORMALISING, tokenizer_of
from .folder import SCHEDULER_FILE
from .guidance import embed_scale
from .layers import projections, time_layers
from .noise import initial_noise, step_generators
from .pipelines import no_components, safety_checker_off
from .pretrained import load_network, reason_of
from .samplers import Sampler, Samplers
from .shortcuts import split_shortcuts
from .source import EMBEDDED, EMBEDDED_FOLDER, ModelName, locate
from .text import check_vocabulary, load_tokenizer
from .trajectory import Trajectory, rehearse
from .uninterrupted import uninterrupted
from .weights import check_finite, read_tensors

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline
    from transformers import PreTrainedTokenizerBase

    from .pretrained import Network

__all__ = ["EMBEDDED", "EMBEDDED_FOLDER", "Model", "ModelName", "find_model"]

TORCH_DTYPES = {Dtype.FP32: torch.float32, Dtype.BF16: torch.bfloat16, Dtype.FP16: torch.float16}


class Model(ModelDescription):
    """A pipeline folder whose components are loaded when asked for; they belong to the caller."""

    def split(self) -> "Model":
        """Return the same model with its shortcut convolutions split in two."""
        return Model(self.name, self.folder, split_shortcuts=True)

    @cached_property
    def ref(self) -> ModelRef:
        """The name, with the sha256 over paths and contents of all files that are read."""
        files = []
        for part in self.parts:
            files += files_read(self.folder / part, self.name.variant)
        total = digest_of(self.folder, files)
        if self.name.lora:
            total.update(f"adapter {self.name.lora_scale} ".encode() + adapter.digest(self.name.lora))
        return ModelRef(digest=total.hexdigest(), **asdict(self.name))

    # ------------------------------------------------------------ the denoiser

    @uninterrupted()
    def denoiser(self, dtype: Dtype = Dtype.FP32, device: str = "cpu") -> nn.Module:
        """Return the denoiser in eval mode, without gradients, the adapter fused into it."""
        network = self._load(self.denoiser_class, self.family.folder, TORCH_DTYPES[dtype])
        if self.name.lora:
            adapter.fuse_into_denoiser(self.pipeline_class, network, self.name.lora, self.lora_scale)
            check_finite(network, self.folder / self.family.folder, self.name.variant)
        if self.split_shortcuts:
            split_shortcuts(network)
        return network.to(device)

    @uninterrupted()
    def time_path(self) -> nn.Module:
        """Return the denoiser in fp32 with weights in its time path alone, the only ones that are read.

        In a family whose prompts are added before the projections, these have no weights either.
        """
        if self.name.lora:  # it may be in any layer
            return self.denoiser()
        network = copy.deepcopy(self.skeleton)
        without = projections(network) if self.family.pooled else {}
        names: set[str] = set()
        for layer in time_layers(network).keys() - without.keys():
            names.update(f"{layer}.{parameter}" for parameter in network.get_submodule(layer).state_dict())
        tensors = {name: tensor.float() for name, tensor in self.tensors(names).items()}
        try:
            network.load_state_dict(tensors, strict=False, assign=True)
        except RuntimeError as error:
            raise UsageProblem(f"{self.folder / self.family.folder}: {reason_of(error)}") from None
        return network.eval().requires_grad_(False)

    @uninterrupted()
    def tensors(self, names: set[str]) -> dict[str, Tensor]:
        """Return tensors of the denoiser by name, the adapter fused into them; no others are read."""
        if self.name.lora:
            state = self.denoiser().state_dict()
            return {name: state[name] for name in names}
        return read_tensors(self.folder / self.family.folder, self.name.variant, names)

    # ------------------------------------------------------------ the other components

    @uninterrupted()
    def vae(self, device: str = "cpu") -> "AutoencoderKL | AutoencoderTiny":
        """Return the autoencoder, always in fp32: its decoder overflows in fp16 on some models.

        Fields of its configuration that the family's pipeline does not read are None.
        """
        import diffusers

        vae = self._load(getattr(diffusers, self.index["vae"][1]), "vae", torch.float32)
        vae.register_to_config(**dict.fromkeys(set(NORMALISING) - set(self.family.normalised)))
        return vae.to(device)

    @uninterrupted()
    def text_pipeline(self, device: str = "cpu") -> "DiffusionPipeline":
        """Return the pipeline with its text encoders alone, which encodes prompts as diffusers does."""
        import transformers

        parts = no_components(self.pipeline_class)
        for name in self.text_parts:
            # T5 has 4.8 billion parameters and is used in half precision everywhere
            dtype = torch.bfloat16 if name in self.family.t5 else torch.float32
            encoder = self._load(getattr(transformers, self.index[name][1]), name, dtype)
            parts[name] = encoder.to(device)
            tokenizer = self.tokenizer(tokenizer_of(name))
            check_vocabulary(tokenizer, encoder.config, self.folder / tokenizer_of(name))
            parts[tokenizer_of(name)] = tokenizer
        if "text_encoder_3" not in self.text_parts and "text_encoder_3" in parts:
            parts[self.family.folder] = self.skeleton  # the pipeline asks for its width where T5 is absent
        for option, value in self.index.items():
            if option in parts and isinstance(value, bool):
                parts[option] = value
        parts |= safety_checker_off(self.pipeline_class)
        pipeline = self.pipeline_class(**parts)
        if self.name.lora:
            config = self.skeleton.config
            adapter.fuse_into_text_encoders(pipeline, config, self.name.lora, self.lora_scale)
        return pipeline

    def tokenizer(self, part: str = "tokenizer") -> "PreTrainedTokenizerBase":
        """Return the tokenizer in a folder."""
        return load_tokenizer(self.index[part][1], self.folder / part)

    @property
    def text_shape(self) -> tuple[int, int]:
        """Tokens and channels of a text embedding."""
        return self.family.denoiser.text_shape(self.config, self.tokenizer().model_max_length)

    def sampler(self, setting: Setting) -> Sampler:
        """Return a sampler of this model's noise schedule, its timesteps set."""
        _, h, w = self.latent_shape(setting.height, setting.width)
        patch = int(self.config.get("patch_size") or 1)
        return self._samplers.begin(setting.scheduler, setting.steps, (h // patch) * (w // patch))

    def embedded_guidance(self, setting: Setting) -> Tensor | None:
        """Return the embedding (1,G) of a setting's guidance scale, None for a denoiser that takes none."""
        if self.guidance_width is None or setting.embedded_guidance is None:
            return None
        return embed_scale(setting.embedded_guidance, self.guidance_width)

    def in_setting(self, texts: Conditioning, setting: Setting) -> Conditioning:
        """Return texts with a setting's sizes and guidance scale, where the model takes them."""
        size = size_ids(setting.height, setting.width) if self.family.sized else None
        guidance = self.embedded_guidance(setting)
        return replace(
            texts,
            size=None if size is None else size.expand(len(texts), -1),
            guidance=None if guidance is None else guidance.expand(len(texts), -1),
        )

    def rehearse(self, setting: Setting) -> None:
        """Raise UsageProblem for a sampler that cannot run all its steps; takes milliseconds."""
        channels = self.latent_channels
        predicted = min(channels, int(self.config.get("out_channels") or channels))
        rehearse(self.sampler(setting), setting.steps, channels, predicted)

    def trajectory(
        self, setting: Setting, seed: int, prompts: Sequence[int], device: torch.device | str = "cpu"
    ) -> Trajectory:
        """Return the trajectories of numbered prompts, each from its own noise and in its own context."""
        shape = self.latent_shape(setting.height, setting.width)
        noise, context = initial_noise(shape, seed, prompts).to(device), None
        if self.family.context:
            vae, size = self._encoder(str(device)), (setting.height, setting.width)
            context = box_contexts(vae, size, self.latent_factor, seed, prompts)
        return Trajectory(self.sampler(setting), noise, step_generators(seed, prompts), context)

    def _encoder(self, device: str) -> "AutoencoderKL | AutoencoderTiny":
        """Return the autoencoder on a device, loaded once."""
        if device not in self._encoders:
            self._encoders[device] = self.vae(device)
        return self._encoders[device]

    @cached_property
    def _encoders(self) -> "dict[str, AutoencoderKL | AutoencoderTiny]":
        return {}

    @property
    def lora_scale(self) -> float:
        """The factor of the adapter."""
        return 1.0 if self.name.lora_scale is None else self.name.lora_scale

    @cached_property
    def _samplers(self) -> Samplers:
        file = self.folder / "scheduler" / SCHEDULER_FILE
        return Samplers(self.family, self.default_scheduler, self.component_config("scheduler"), file)

    def _load(self, cls: "type[Network]", part: str, dtype: torch.dtype) -> "Network":
        return load_network(cls, self.folder / part, self.name.variant, dtype)


def find_model(name: ModelName | str, *, fetch: bool = True) -> Model:
    """Return a model by its name, or by its source alone.

    A Hub id is taken from the local cache or, with `fetch`, from the network.
    """
    if isinstance(name, str):
        name = ModelName(name)
    return Model(name, locate(name, fetch=fetch))
