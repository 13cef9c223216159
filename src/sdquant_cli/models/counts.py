"""What a layer does in one call: at how many positions, and how many values it reads."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..hooks import watching_inputs, watching_outputs
from ..manifests import Setting
from .example_call import ExampleCall
from .layers import quantizable_layers
from .load import Model


@dataclass(frozen=True)
class LayerCount:
    """The counts of a layer for one item."""

    weight_shape: torch.Size
    positions: int  # outputs of each channel; each takes one multiplication of every weight of the channel
    inputs: int  # values


def layer_counts(model: Model, setting: Setting) -> dict[str, LayerCount]:
    """Return the counts of each layer at a setting's size, from shapes alone: a run on the meta device."""
    meta, call = torch.device("meta"), ExampleCall.of(model, setting, 1, 0.0)
    call = replace(
        call,
        x=call.x.to(meta),
        timestep=call.timestep.to(meta),
        conditioning=call.conditioning.to(meta),
    )
    layers = quantizable_layers(model.skeleton)
    positions: dict[str, int] = {}
    inputs: dict[str, int] = {}

    def see_input(name: str, args: tuple[Tensor, ...], _kwargs: object) -> None:
        inputs[name] = args[0].numel()

    def see_output(name: str, output: Tensor) -> None:
        weight: Tensor = layers[name].weight
        positions[name] = output.numel() // weight.shape[0]

    with watching_inputs(layers, see_input), watching_outputs(layers, see_output):
        call.run(model.skeleton)
    counts = {}
    for name, shape in model.layer_shapes.items():
        counts[name] = LayerCount(shape, positions[name], inputs[name])
    return counts
