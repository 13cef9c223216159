"""What is reconstructed at once: the residual and transformer blocks of a denoiser, other layers alone.

Units come in the order in which the network runs them, which is not that of its modules.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from ..hooks import watching_inputs, watching_outputs
from .layers import quantizable_layers

BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "JointTransformerBlock")


@dataclass(frozen=True)
class Tap:
    """A module of the network, by its path, and where it is in a run."""

    name: str
    before: int  # MACs of all layers that run before it


@dataclass(frozen=True)
class Block(Tap):
    """A module and the quantizable layers within, all by module path, in running order."""

    layers: tuple[str, ...]
    macs: int  # of these layers, in the call that was traced
    enclosing: tuple[Tap, ...]  # modules that hold this unit and others, the outermost first

    @property
    def macs_to_end(self) -> int:
        """MACs of a run from the enclosing module to its end; its first block pays for reaching it."""
        starts = [0, *(place.before for place in self.enclosing)]
        entering = sum(inner - outer for outer, inner in pairwise(starts) if inner == self.before)
        return entering + self.before - starts[-1] + self.macs

    def single_layers(self) -> "list[Block]":
        """Its layers as units of their own."""
        share = self.macs // len(self.layers)  # near enough: it is for counting cost
        return [replace(self, name=name, layers=(name,), macs=share) for name in self.layers]


def blocks_of(network: nn.Module, run: Callable[[], object]) -> list[Block]:
    """The units of a network; `run` calls it once, with whatever batch."""
    macs = _traced(quantizable_layers(network), run)
    grouped = _grouped(network, macs)
    holders = {name: _around(network, name) for name in grouped}
    held = Counter(holder for enclosing in holders.values() for holder in enclosing)
    units: list[Block] = []
    first: dict[str, int] = {}  # MACs before the first unit of each module
    before = 0
    for name, layers in grouped.items():
        enclosing = [holder for holder in holders[name] if held[holder] > 1]
        places = tuple(Tap(holder, first.setdefault(holder, before)) for holder in enclosing)
        own = sum(macs[layer] for layer in layers)
        units.append(Block(name, before, tuple(layers), own, places))
        before += own
    return units


def captured_bytes(network: nn.Module, run: Callable[[], object], networks: int) -> int:
    """Return the most bytes that reconstruction keeps at once of what `run` calls the network on.

    These are the arguments of a unit and of the modules enclosing it, of each of so many networks, and the
    unit's output.
    """
    units = blocks_of(network, run)
    names = {unit.name for unit in units} | {place.name for unit in units for place in unit.enclosing}
    arguments, outputs = _sizes(network, names, run)
    most = 0
    for unit in units:
        inputs = arguments[unit.name] + sum(arguments[place.name] for place in unit.enclosing)
        most = max(most, networks * inputs + outputs[unit.name])
    return most


def _sizes(
    network: nn.Module, names: Iterable[str], run: Callable[[], object]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of the arguments and of the output of each module in one call."""
    arguments: dict[str, int] = {}
    outputs: dict[str, int] = {}

    def see_inputs(name: str, args: object, kwargs: object) -> None:
        arguments[name] = _bytes((args, kwargs))

    def see_output(name: str, output: object) -> None:
        outputs[name] = _bytes(output)

    modules = {name: network.get_submodule(name) for name in names}
    with torch.no_grad(), watching_inputs(modules, see_inputs), watching_outputs(modules, see_output):
        run()
    return arguments, outputs


def _bytes(value: object) -> int:
    return sum(leaf.nbytes for leaf in tree_iter(value) if isinstance(leaf, Tensor))


def largest_block(network: nn.Module) -> int:
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


def _around(network: nn.Module, name: str) -> list[str]:
    """The modules that hold another and can be run, the outermost first."""
    parts = name.split(".")
    paths = [".".join(parts[:count]) for count in range(1, len(parts))]
    return [path for path in paths if not isinstance(network.get_submodule(path), nn.ModuleList)]


def _traced(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, int]:
    """Multiply-accumulates of each layer in one call, in running order."""
    macs: dict[str, int] = {}

    def count(name: str, output: Tensor) -> None:
        weight: Tensor = layers[name].weight  # type: ignore[assignment]
        positions = output.numel() // weight.shape[0]
        macs[name] = macs.get(name, 0) + positions * weight.numel()

    with torch.no_grad(), watching_outputs(layers, count):
        run()
    return macs
