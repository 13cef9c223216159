"""Count what each layer does in one call of a network: its outputs of a channel, and the values it reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..hooks import watching_inputs, watching_outputs
from ..manifests import Setting
from .example_call import ExampleCall
from .layers import quantizable_layers
from .load import Model


@dataclass(frozen=True)
class LayerCount:
    """The counts of a layer in one call."""

    weight_shape: torch.Size
    positions: int  # outputs of each channel; each takes one multiplication of every weight of the channel
    inputs: int  # values read

    @property
    def macs(self) -> int:
        """The multiply-accumulates."""
        return self.positions * self.weight_shape.numel()


def count_layers(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, LayerCount]:
    """Return the counts of layers in running order; `run` calls their network once."""
    counts: dict[str, LayerCount] = {}
    read: dict[str, int] = {}

    def see_input(name: str, args: tuple[Tensor, ...], _kwargs: object) -> None:
        read[name] = args[0].numel()

    def see_output(name: str, output: Tensor) -> None:
        weight: Tensor = layers[name].weight  # type: ignore[assignment]
        before = counts.get(name, LayerCount(weight.shape, 0, 0))
        positions = before.positions + output.numel() // len(weight)
        counts[name] = LayerCount(weight.shape, positions, before.inputs + read[name])

    with torch.no_grad(), watching_inputs(layers, see_input), watching_outputs(layers, see_output):
        run()
    return counts


def layer_counts(model: Model, setting: Setting) -> dict[str, LayerCount]:
    """Return the counts of a model's layers in a call of one item at a setting's size, from shapes alone."""
    call = ExampleCall.of_shapes(model, setting, 1)
    return count_layers(quantizable_layers(model.skeleton), lambda: call.run(model.skeleton))
