"""The one place that replaces modules of a network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .modules import LayerState, quantized
from .rows import Rows


def swap(network: nn.Module, states: dict[str, LayerState], rows: Rows, *, weights_on_grid: bool) -> None:
    """Replace the named layers of `network` by quantized ones, in place. An empty map changes nothing.

    `weights_on_grid`: the weights are rounded already, so the forward pass need not do it again.
    """
    for name, state in states.items():
        parent_name, _, child = name.rpartition(".")
        parent = network.get_submodule(parent_name)
        layer: Any = parent.get_submodule(child)
        setattr(parent, child, quantized(layer, state, rows, weights_on_grid=weights_on_grid))


@contextmanager
def swapped(network: nn.Module, states: dict[str, LayerState], rows: Rows) -> Iterator[None]:
    """Within: the named layers are quantized. Afterwards they are the floating-point ones they were."""
    originals = {name: network.get_submodule(name) for name in states}
    swap(network, states, rows, weights_on_grid=False)
    try:
        yield
    finally:
        for name, layer in originals.items():
            network.set_submodule(name, layer)
