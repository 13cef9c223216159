"""Which modules of a denoiser are quantized, and which belong to its time path."""

from typing import Any

from torch import nn

from .families import DENOISERS, Denoiser, denoiser_of

_TEXT_FED = tuple(end for denoiser in DENOISERS.values() for end in denoiser.text_fed)


def _in_time_path(name: str, denoiser: Denoiser) -> bool:
    dotted = f".{name}."
    return any(f".{part}." in dotted for part in denoiser.time_path)


def quantizable_layers(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Every nn.Linear and nn.Conv2d outside the time path, by module path (258 in SD v1-4)."""
    denoiser = denoiser_of(network)
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not _in_time_path(name, denoiser)
    }


def time_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the time path, by module path (24 in SD v1-4)."""
    denoiser = denoiser_of(network)
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and _in_time_path(name, denoiser)
    }


def projections(network: nn.Module) -> dict[str, nn.Linear]:
    """The layers of the time path that are given the whole embedding, by module path (22 in SD v1-4)."""
    ends = denoiser_of(network).projections
    return {name: module for name, module in time_layers(network).items() if name.endswith(ends)}


def is_text_fed(name: str) -> bool:
    """Whether a layer, or a place of attention, sees only the prompt."""
    return name.endswith(_TEXT_FED)


def block_names(network: Any) -> list[str]:
    """The blocks whose outputs inter-layer distillation compares."""
    return denoiser_of(network).blocks(network)
