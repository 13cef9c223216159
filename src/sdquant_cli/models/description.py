"""The description of a model in its pipeline's JSON files: sizes, shapes and classes, without weights."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import UsageProblem
from ..types import Scheduler
from .attention import attention_taps
from .configuration import Defaults
from .families import tokenizer_of
from .folder import (
    GUIDANCE,
    INDEX,
    SCHEDULER_FILE,
    Json,
    check_folder,
    check_supported,
    class_in,
    read_defaults,
    read_json,
    text_parts,
    with_defaults,
)
from .layers import projections, quantizable_layers, table_widths, time_layers
from .pipelines import pipeline_class_of
from .pretrained import reason_of
from .shortcuts import split_shortcuts
from .source import ModelName
from .weights import count_numbers

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

    from .pretrained import Network


class ModelDescription:
    """A pipeline folder in diffusers layout, as its configuration files describe it."""

    def __init__(self, name: ModelName, folder: Path, *, split_shortcuts: bool = False) -> None:
        self.name, self.folder, self.split_shortcuts = name, folder, split_shortcuts
        self.family = check_folder(folder, name.source, name.variant)
        check_supported(folder, self.family)

    @property
    def source(self) -> str:
        """The model as the user names it, without revision, variant and adapter."""
        return self.name.source

    @cached_property
    def defaults(self) -> Defaults:
        """The settings that the model is sampled with unless a flag says otherwise."""
        return read_defaults(self.folder, self.family)

    @property
    def prompts_file(self) -> Path | None:
        """The model's own held-out prompts, if it has any."""
        return self.folder / self.defaults.prompts if self.defaults.prompts else None

    # ------------------------------------------------------------ components

    @cached_property
    def index(self) -> Json:
        """model_index.json: the classes of components, and the pipeline's own options."""
        return read_json(self.folder / INDEX)

    @property
    def text_parts(self) -> list[str]:
        """Folders of the text encoders that the pipeline has."""
        return text_parts(self.index, self.family)

    @property
    def parts(self) -> set[str]:
        """Folders of all components."""
        return {*self.family.parts, *self.text_parts, *map(tokenizer_of, self.text_parts)}

    @property
    def other_parts(self) -> list[str]:
        """Folders of all components but denoiser and scheduler."""
        return sorted(self.parts - {self.family.folder, "scheduler"})

    @property
    def pipeline_class(self) -> "type[DiffusionPipeline]":
        """The diffusers pipeline of the model's family."""
        return pipeline_class_of(self.family)

    @property
    def denoiser_class(self) -> "type[ModelMixin]":
        """The diffusers class of the denoiser."""
        import diffusers

        return getattr(diffusers, self.family.denoiser.cls)

    @property
    def default_scheduler(self) -> str:
        """The scheduler the model was published with: its short name, or its class where it has none."""
        try:
            return Scheduler.parse(self.index["scheduler"][1])
        except ValueError as error:
            raise UsageProblem(f"{self.folder / INDEX}: scheduler: {error}") from None

    def component_config(self, part: str) -> Json:
        """Return a component's configuration, with the class that the index names."""
        cls = self.index[part][1]
        if part == "scheduler":
            return read_json(self.folder / part / SCHEDULER_FILE) | {"_class_name": cls}
        return with_defaults(cls, read_json(self.folder / part / "config.json"))

    @property
    def networks(self) -> list[str]:
        """Folders of the components that are networks: the denoiser, text encoders, the autoencoder."""
        return [self.family.folder, *self.text_parts, "vae"]

    def meta_network(self, part: str) -> "Network":
        """Return a network of the pipeline on the meta device: its modules and shapes, without weights."""
        cls = self.denoiser_class if part == self.family.folder else class_in(self.folder, part)
        with torch.device("meta"):
            try:
                if part in self.text_parts:
                    return cls(cls.config_class.from_pretrained(self.folder / part))
                return cls.from_config(self.component_config(part))
            except Exception as error:
                path = self.folder / part / "config.json"
                raise UsageProblem(f"{path}: {cls.__name__} refuses it ({reason_of(error)})") from None

    def weight_shapes(self, part: str) -> dict[str, torch.Size]:
        """Return the weight shapes of a network's quantizable layers, in module order."""
        return {
            name: layer.weight.shape for name, layer in quantizable_layers(self.meta_network(part)).items()
        }

    # ------------------------------------------------------------ sizes

    @cached_property
    def config(self) -> Json:
        """The denoiser's configuration, with the defaults of its class."""
        return self.component_config(self.family.folder)

    @cached_property
    def default_size(self) -> tuple[int, int]:
        """Height and width of the images that the model was trained on, in pixels."""
        size = self.config["sample_size"]
        height, width = [size, size] if isinstance(size, int) else size
        return height * self.latent_factor, width * self.latent_factor

    @cached_property
    def latent_factor(self) -> int:
        """Pixels per latent cell along one side."""
        return 2 ** (len(self.component_config("vae")["block_out_channels"]) - 1)

    @property
    def multiple(self) -> int:
        """Pixels that the sides of an image must be a multiple of."""
        return self.latent_factor * self.family.denoiser.multiple(self.config)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int(self.config["in_channels"]) - self.family.context

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape (C,h,w) of the latent of an image of height x width pixels."""
        factor = self.latent_factor
        return self.latent_channels, height // factor, width // factor

    def input_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape of the denoiser's input: the latent's, its context's channels included."""
        channels, h, w = self.latent_shape(height, width)
        return channels + self.family.context, h, w

    @property
    def pooled_width(self) -> int | None:
        """Channels of the pooled text, or None for a family without it."""
        return self.family.denoiser.pooled_width(self.config) if self.family.pooled else None

    @property
    def guidance_width(self) -> int | None:
        """Channels of the embedding of a guidance scale, or None for a denoiser that takes none."""
        width: int | None = self.config.get(GUIDANCE)
        return width

    @property
    def shifts_by_resolution(self) -> bool:
        """Whether the size of an image decides the timesteps."""
        return bool(self.component_config("scheduler").get("use_dynamic_shifting"))

    @property
    def text_parameters(self) -> dict[str, int]:
        """Number of parameters of each text encoder, by its folder."""
        return {part: count_numbers(self.folder / part, self.name.variant) for part in self.text_parts}

    # ------------------------------------------------------------ the denoiser's modules

    @cached_property
    def skeleton(self) -> "ModelMixin":
        """The denoiser on the meta device: its modules and shapes, without weights."""
        network = self.meta_network(self.family.folder)
        if self.split_shortcuts:
            split_shortcuts(network)
        return network

    @cached_property
    def layer_shapes(self) -> dict[str, torch.Size]:
        """Weight shapes of the quantizable layers, in module order."""
        return {name: layer.weight.shape for name, layer in quantizable_layers(self.skeleton).items()}

    @cached_property
    def attention_taps(self) -> list[str]:
        """Module paths where attention's products can be rounded; empty where attention is not plain."""
        return [] if self.family.masked else attention_taps(self.skeleton)

    @cached_property
    def time_widths(self) -> list[int]:
        """Channels of each part of a time table."""
        return list(table_widths(self.skeleton).values())

    @property
    def embedding_width(self) -> int:
        """Channels of the time embedding."""
        return next(iter(projections(self.skeleton).values())).in_features

    @cached_property
    def time_parameters(self) -> int:
        """Number of parameters of the time path."""
        parameters = 0
        for layer in time_layers(self.skeleton).values():
            parameters += sum(p.numel() for p in layer.parameters())
        return parameters
