"""The blocks of a denoiser that are reconstructed one at a time, in the order in which the network runs them.

A residual or transformer block is reconstructed as a whole; a layer outside of them is a block of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from ..hooks import watching_inputs, watching_outputs
from .counts import count_layers
from .layers import quantizable_layers

BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "JointTransformerBlock")


@dataclass(frozen=True)
class Tap:
    """A module whose inputs are captured."""

    name: str  # module path
    before: int  # MACs of all layers that run before it


@dataclass(frozen=True)
class Block(Tap):
    """A module that is reconstructed at once."""

    layers: tuple[str, ...]  # module paths of its quantizable layers, in running order
    macs: int  # of these layers, in the call that was traced
    enclosing: tuple[Tap, ...]  # modules that hold this block and others, the outermost first

    @property
    def macs_to_end(self) -> int:
        """MACs from the start of the innermost enclosing module to the end of this block.

        The first block of an enclosing module also pays for the run up to that module.
        """
        start, entering = 0, 0
        for tap in self.enclosing:
            if tap.before == self.before:
                entering += tap.before - start
            start = tap.before
        return entering + self.before - start + self.macs

    def single_layers(self) -> "list[Block]":
        """Return its layers as blocks of their own, with equal shares of its MACs."""
        share = self.macs // len(self.layers)  # near enough: it only counts cost
        return [replace(self, name=name, layers=(name,), macs=share) for name in self.layers]


def blocks_of(network: nn.Module, run: Callable[[], object]) -> list[Block]:
    """Return the blocks of a network; `run` calls the network once, on any batch."""
    macs = {name: count.macs for name, count in count_layers(quantizable_layers(network), run).items()}
    grouped = _group_by_block(network, macs)
    ancestors = {name: _ancestors(network, name) for name in grouped}
    held: Counter[str] = Counter()
    for modules in ancestors.values():
        held.update(modules)
    blocks: list[Block] = []
    taps: dict[str, Tap] = {}
    before = 0
    for name, layers in grouped.items():
        enclosing = []
        for module in ancestors[name]:
            if held[module] > 1:
                enclosing.append(taps.setdefault(module, Tap(module, before)))
        block = Block(name, before, tuple(layers), sum(macs[layer] for layer in layers), tuple(enclosing))
        blocks.append(block)
        before += block.macs
    return blocks


def captured_bytes(network: nn.Module, run: Callable[[], object], networks: int) -> int:
    """Return the most bytes that reconstruction keeps at once of the batch that `run` calls the network on.

    These are the inputs of a block and of its enclosing modules, for each of so many networks, and the
    block's output.
    """
    blocks = blocks_of(network, run)
    names: set[str] = set()
    for block in blocks:
        names.update((block.name, *(tap.name for tap in block.enclosing)))
    inputs, outputs = _measure_bytes(network, names, run)
    most = 0
    for block in blocks:
        captured = inputs[block.name] + sum(inputs[tap.name] for tap in block.enclosing)
        most = max(most, networks * captured + outputs[block.name])
    return most


def _measure_bytes(
    network: nn.Module, names: Iterable[str], run: Callable[[], object]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of each module's inputs and of its output in one call."""
    inputs: dict[str, int] = {}
    outputs: dict[str, int] = {}

    def see_inputs(name: str, args: object, kwargs: object) -> None:
        inputs[name] = _bytes((args, kwargs))

    def see_output(name: str, output: object) -> None:
        outputs[name] = _bytes(output)

    modules = {name: network.get_submodule(name) for name in names}
    with torch.no_grad(), watching_inputs(modules, see_inputs), watching_outputs(modules, see_output):
        run()
    return inputs, outputs


def _bytes(value: object) -> int:
    return sum(leaf.nbytes for leaf in tree_iter(value) if isinstance(leaf, Tensor))


def largest_block(network: nn.Module) -> int:
    """Return the number of weights in the largest block."""
    layers = quantizable_layers(network)
    most = 0
    for names in _group_by_block(network, layers).values():
        most = max(most, sum(layers[name].weight.numel() for name in names))
    return most


def _group_by_block(network: nn.Module, layers: Iterable[str]) -> dict[str, list[str]]:
    """Return layers by the block that holds them; a layer outside of all blocks is alone under its name."""
    blocks = [name for name, module in network.named_modules() if type(module).__name__ in BLOCKS]
    grouped: dict[str, list[str]] = {}
    for layer in layers:
        owner = next((block for block in blocks if layer.startswith(f"{block}.")), layer)
        grouped.setdefault(owner, []).append(layer)
    return grouped


def _ancestors(network: nn.Module, name: str) -> list[str]:
    """Return the modules that hold a module and can be called, the outermost first."""
    ancestors: list[str] = []
    path = ""
    for part in name.split(".")[:-1]:
        path = f"{path}.{part}" if path else part
        if not isinstance(network.get_submodule(path), nn.ModuleList):
            ancestors.append(path)
    return ancestors
