"""The state of a quantized network: codes, scales and zero-points of every layer, and its stored arrays."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..types import Bits
from .grid import Grid, along_first_axis, dequantize, quantize
from .modules import LayerState, QuantConv2d, QuantInput, QuantLinear
from .relaxing import RelaxedRows
from .rows import Rows
from .swap import swap

FIELDS = {"codes": "int8", "weight_step": "float32", "activation_step": "float32", "activation_zero": "int32"}


def grids(bits: Bits) -> tuple[Grid, Grid]:
    """Return the grids of weights (signed, symmetric) and of activations (affine)."""
    return Grid(bits.weights, signed=True), Grid(bits.activations, signed=False)


@dataclass(frozen=True)
class SavedLayer:
    """The stored numbers of one layer; a place without a weight has neither codes nor weight scales."""

    bits: Bits
    codes: Tensor  # int8, the weight's shape
    weight_step: Tensor  # (C_out) scales
    activation_step: Tensor  # (rows) or (1) scales
    activation_zero: Tensor  # (rows) or (1) zero-points, integers

    def weight(self) -> Tensor:
        """Return the weight on its grid, fp32."""
        scale = along_first_axis(self.weight_step, self.codes)
        return dequantize(self.codes.float(), scale, 0.0)

    def layer_state(self, relaxed: RelaxedRows | None = None) -> LayerState:
        """Return the state that modules are built from; `relaxed` rows apply where they widen the grid."""
        weight_grid, activation_grid = grids(self.bits)
        wider = (
            None if relaxed is None else relaxed.for_layer(self.bits.activations, len(self.activation_step))
        )
        zero = self.activation_zero.float()
        return LayerState(self.weight_step, self.activation_step, zero, weight_grid, activation_grid, wider)


State = dict[str, SavedLayer]


def state_to_arrays(state: State) -> dict[str, np.ndarray]:
    """Return flat arrays, one per field, offsets (layers + 1) and bits (layers, 2), in the state's order."""
    arrays = {}
    for field, dtype in FIELDS.items():
        parts = [
            getattr(layer, field).reshape(-1).numpy().astype(dtype, copy=False) for layer in state.values()
        ]
        arrays[field] = np.concatenate(parts)
        arrays[f"{field}_offset"] = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    arrays["bits"] = np.array(
        [[layer.bits.weights, layer.bits.activations] for layer in state.values()], dtype=np.int64
    )
    return arrays


def state_from_arrays(arrays: dict[str, np.ndarray], shapes: dict[str, torch.Size]) -> State:
    """Return the state of arrays that `state_to_arrays` made, from each weight's shape in the same order."""

    def part(field: str, i: int) -> Tensor:
        start, stop = arrays[f"{field}_offset"][i : i + 2]
        return torch.from_numpy(np.array(arrays[field][start:stop]))

    return {
        name: SavedLayer(
            Bits(*map(int, arrays["bits"][i])),
            part("codes", i).view(shape),
            part("weight_step", i),
            part("activation_step", i),
            part("activation_zero", i),
        )
        for i, (name, shape) in enumerate(shapes.items())
    }


def restore(network: nn.Module, state: State, rows: Rows, relaxed: RelaxedRows | None = None) -> None:
    """Turn a floating-point network into the quantized network of `state`, in place."""
    for name, layer in state.items():
        if len(layer.codes):
            weight = network.get_parameter(f"{name}.weight")
            weight.data = layer.weight().to(weight)
    states = {name: layer.layer_state(relaxed) for name, layer in state.items()}
    swap(network, states, rows, weights_on_grid=True)
    network.requires_grad_(False)


@torch.no_grad()
def capture(network: nn.Module, bits: Mapping[str, Bits]) -> State:
    """Return the state of a quantized network; raise TypeError for a named layer that is not quantized."""
    state = {}
    for name, layer_bits in bits.items():
        layer = network.get_submodule(name)
        if not isinstance(layer, QuantLinear | QuantConv2d | QuantInput):
            raise TypeError(f"{name} is {type(layer).__name__}, not a quantized layer")
        codes = scale = torch.empty(0)
        if not isinstance(layer, QuantInput):
            scale = layer.weight_step.detach().cpu()
            by_channel = along_first_axis(scale, layer.weight)
            codes = quantize(layer.full_weight().cpu(), by_channel, 0.0, layer.weight_grid)
        state[name] = SavedLayer(
            layer_bits,
            codes.to(torch.int8),
            scale,
            layer.activation_step.detach().cpu(),
            layer.activation_zero.cpu().to(torch.int32),
        )
    return state
