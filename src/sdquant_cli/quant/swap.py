"""The one place that replaces modules of a network."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .modules import LayerState, quantized_layer
from .rows import Rows


def swap(network: nn.Module, states: dict[str, LayerState], rows: Rows, *, weights_on_grid: bool) -> None:
    """Replace the named layers of `network` by quantized ones, in place. An empty map changes nothing.

    `weights_on_grid`: the weights are rounded already, so the forward pass need not do it again.
    Raises TypeError for a named module that is no linear layer, convolution or identity.
    """
    for name, state in states.items():
        layer = network.get_submodule(name)
        if not isinstance(layer, nn.Linear | nn.Conv2d | nn.Identity):
            raise TypeError(f"{name} is {type(layer).__name__}, not a layer that can be quantized")
        twin = quantized_layer(layer, state, rows, weights_on_grid=weights_on_grid)
        network.set_submodule(name, twin)


@contextmanager
def swapped(network: nn.Module, states: dict[str, LayerState], rows: Rows) -> Iterator[None]:
    """Quantize the named layers within the context; afterwards they are the floating-point ones again."""
    originals = {name: network.get_submodule(name) for name in states}
    swap(network, states, rows, weights_on_grid=False)
    try:
        yield
    finally:
        for name, layer in originals.items():
            network.set_submodule(name, layer)
