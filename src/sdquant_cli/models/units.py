"""What is reconstructed at once: the residual and transformer blocks of a denoiser, other layers alone.

Units come in the order in which the network runs them, which is not that of its modules.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .layers import quantizable_layers

BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "JointTransformerBlock")


@dataclass(frozen=True)
class Unit:
    """A module of the network and the quantizable layers within, all by module path, in running order."""

    name: str
    layers: tuple[str, ...]
    macs: int  # of these layers, in the call that was traced
    root: str  # the module that the network runs as one of its own steps: this one, or one around it
    before_root: int  # MACs of all layers that run before the root
    in_root: int  # and of those within it that run before the unit

    def alone(self) -> "list[Unit]":
        """Its layers as units of their own."""
        share = self.macs // len(self.layers)  # near enough: it is for counting cost
        return [replace(self, name=name, layers=(name,), macs=share) for name in self.layers]

    def rootless(self) -> "Unit":
        """The same unit, reached from the network's own input."""
        return replace(self, root=self.name, before_root=self.before_root + self.in_root, in_root=0)


def units_of(network: nn.Module, run: Callable[[], object]) -> list[Unit]:
    """The units of a network; `run` calls it once, with whatever batch."""
    macs = _traced(quantizable_layers(network), run)
    units: list[Unit] = []
    before = before_root = 0
    for name, layers in _grouped(network, macs).items():
        root = _root(network, name)
        if not units or root != units[-1].root:
            before_root = before
        own = sum(macs[layer] for layer in layers)
        units.append(Unit(name, tuple(layers), own, root, before_root, before - before_root))
        before += own
    return units


def largest_unit(network: nn.Module) -> int:
    """Weights of the unit that has the most."""
    layers = quantizable_layers(network)
    return max(sum(layers[n].weight.numel() for n in own) for own in _grouped(network, layers).values())


def _grouped(network: nn.Module, layers: Iterable[str]) -> dict[str, list[str]]:
    """Layers by the block that they are in, or by themselves."""
    blocks = [name for name, m in network.named_modules() if type(m).__name__ in BLOCKS]
    grouped: dict[str, list[str]] = {}
    for layer in layers:
        owner = next((block for block in blocks if layer.startswith(f"{block}.")), layer)
        grouped.setdefault(owner, []).append(layer)
    return grouped


def _root(network: nn.Module, name: str) -> str:
    """The child of the network, or of a list of its children, that holds a module."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if isinstance(network.get_submodule(first), nn.ModuleList) else first


def _traced(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, int]:
    """Multiply-accumulates of each layer in one call, in running order."""
    macs: dict[str, int] = {}

    def hook(name: str) -> Callable[..., None]:
        def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
            weight: Tensor = module.weight  # type: ignore[assignment]
            positions = output.numel() // weight.shape[0]
            macs[name] = macs.get(name, 0) + positions * weight.numel()

        return count

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return macs
