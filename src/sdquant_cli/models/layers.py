"""The modules of a denoiser that are quantized, and those of its time path."""

from torch import nn

from .families import DENOISERS, Denoiser, denoiser_of

_TEXT_FED = tuple(end for denoiser in DENOISERS.values() for end in denoiser.text_fed)


def _in_time_path(name: str, denoiser: Denoiser) -> bool:
    dotted = f".{name}."
    return any(f".{part}." in dotted for part in denoiser.time_path)


def quantizable_layers(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return every nn.Linear and nn.Conv2d outside the time path, by module path (258 in SD v1-4)."""
    denoiser = denoiser_of(network)
    layers: dict[str, nn.Linear | nn.Conv2d] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not _in_time_path(name, denoiser):
            layers[name] = module
    return layers


def time_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of the time path, by module path (24 in SD v1-4)."""
    denoiser = denoiser_of(network)
    layers: dict[str, nn.Linear] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and _in_time_path(name, denoiser):
            layers[name] = module
    return layers


def projections(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the time path's layers whose input is the whole embedding, by module path (22 in SD v1-4)."""
    ends = denoiser_of(network).projections
    return {name: module for name, module in time_layers(network).items() if name.endswith(ends)}


def table_widths(network: nn.Module) -> dict[str, int]:
    """Return the channels of what a time table has in place of each module, by module path."""
    layers, denoiser = projections(network), denoiser_of(network)
    widths = {name: layer.out_features for name, layer in layers.items()}
    if denoiser.reads_embedding:
        widths[denoiser.embedding[0]] = next(iter(layers.values())).in_features
    return widths


def is_text_fed(name: str) -> bool:
    """Return whether the input of a layer, or of an attention tap, is the prompt alone."""
    return name.endswith(_TEXT_FED)


def block_names(network: nn.Module) -> list[str]:
    """Return the blocks whose outputs inter-layer distillation compares."""
    return denoiser_of(network).blocks(network)
