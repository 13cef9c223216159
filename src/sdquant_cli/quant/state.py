"""The state of a quantized network: codes, scales and zero-points of every layer, and its stored arrays."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..types import Bits
from .branch import Branch, split_off
from .format import NumberFormat
from .modules import LayerState, QuantConv2d, QuantInput, QuantLinear
from .relaxing import RelaxedRows
from .rows import Rows
from .smoothing import smoothed_weight
from .swap import swap
from .weights import WeightQuantizer, dequantized_weight, storable, weight_scales

BRANCH_FIELDS, SMOOTHING_FIELD = ("branch_up", "branch_down"), "smoothing"
FIELDS = {  # the stored arrays and their dtypes; those of branches and smoothing if the format has them
    "codes": "int8",
    "weight_step": "float32",
    "activation_step": "float32",
    "activation_zero": "int32",
    **dict.fromkeys(BRANCH_FIELDS, "float16"),
    SMOOTHING_FIELD: "float32",
}


def stored_fields(form: NumberFormat) -> list[str]:
    """Return the fields that a state of a format stores."""
    absent = {*(() if form.branch_rank else BRANCH_FIELDS), *(() if form.smoothing else (SMOOTHING_FIELD,))}
    return [field for field in FIELDS if field not in absent]


def stored_values(shape: torch.Size, form: NumberFormat) -> dict[str, int]:
    """Return how many values each field besides the tables holds for a weight (C_out,C_in,...)."""
    return {
        "codes": shape.numel(),
        "weight_step": shape[0] * form.groups(shape),
        "branch_up": shape[0] * form.rank(shape),
        "branch_down": shape[1:].numel() * form.rank(shape),
        SMOOTHING_FIELD: shape[1],
    }


@dataclass(frozen=True)
class SavedLayer:
    """The stored numbers of one layer; a place without a weight has neither codes nor weight scales."""

    bits: Bits
    codes: Tensor  # int8, the weight's shape
    weight_step: Tensor  # (C_out G) scales
    activation_step: Tensor  # (rows) or (1) scales; (0) where each token has its own
    activation_zero: Tensor  # as many zero-points, integers
    branch: Branch | None = None  # fp16
    smoothing: Tensor | None = None  # (C_in) multipliers of the input's channels

    @classmethod
    def of(cls, bits: Bits, shape: torch.Size, tensors: Mapping[str, Tensor]) -> "SavedLayer":
        """Return the layer of a weight's shape and of tensors by field; an empty one is none."""
        filled = {field: tensor for field, tensor in tensors.items() if len(tensor)}
        branch = None
        if "branch_up" in filled:
            up = filled["branch_up"].view(shape[0], -1)
            branch = Branch(up, filled["branch_down"].view(up.shape[1], *shape[1:]))
        return cls(
            bits,
            tensors["codes"].view(shape),
            tensors["weight_step"],
            tensors["activation_step"],
            tensors["activation_zero"],
            branch,
            filled.get(SMOOTHING_FIELD),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the stored tensors by field, without those that the layer does not have."""
        tensors = {
            "codes": self.codes,
            "weight_step": self.weight_step,
            "activation_step": self.activation_step,
            "activation_zero": self.activation_zero,
        }
        if self.branch is not None:
            tensors |= zip(BRANCH_FIELDS, self.branch, strict=True)
        if self.smoothing is not None:
            tensors[SMOOTHING_FIELD] = self.smoothing
        return tensors

    def weight(self) -> Tensor:
        """Return the weight on its grid, fp32."""
        return dequantized_weight(self.codes, self.weight_step)

    def whole_weight(self) -> Tensor:
        """Return the weight that a floating-point layer needs, with branch and smoothing in it, fp32."""
        weight = self.weight() if self.branch is None else self.weight() + self.branch.weight
        return weight if self.smoothing is None else smoothed_weight(weight, 1 / self.smoothing)

    def layer_state(self, form: NumberFormat, relaxed: RelaxedRows | None = None) -> LayerState:
        """Return the state that modules are built from; `relaxed` rows apply where they widen the grid."""
        weight_grid, activation_grid = form.grids(self.bits)
        wider = (
            None if relaxed is None else relaxed.for_layer(self.bits.activations, len(self.activation_step))
        )
        zero = self.activation_zero.float()
        return LayerState(
            self.weight_step,
            self.activation_step,
            zero,
            weight_grid,
            activation_grid,
            wider,
            form.per_token,
            self.branch,
            self.smoothing,
        )


State = dict[str, SavedLayer]


def rounded_to_nearest(weight: Tensor, bits: Bits, form: NumberFormat) -> SavedLayer:
    """Return a layer whose weight is rounded to nearest; its inputs have their scales found at run time."""
    grid, _ = form.grids(bits)
    weight, branch = weight.float(), None
    if rank := form.rank(weight.shape):
        branch = split_off(weight, rank, grid, form.groups(weight.shape))
        weight = weight - branch.weight
    scale = storable(weight_scales(weight, grid, form.groups(weight.shape)), len(weight))
    codes = WeightQuantizer(scale, grid).codes(weight).to(torch.int8)
    none = torch.empty(0, device=weight.device)
    return SavedLayer(bits, codes, scale, none, none.to(torch.int32), branch)


def state_to_arrays(state: State) -> dict[str, np.ndarray]:
    """Return flat arrays, one per field, offsets (layers + 1) and bits (layers, 2), in the state's order.

    A field that no layer has has no array.
    """
    layers, arrays = [layer.tensors() for layer in state.values()], {}
    for field, dtype in FIELDS.items():
        if any(field in tensors for tensors in layers):
            none = torch.empty(0)
            parts = [tensors.get(field, none).reshape(-1).numpy() for tensors in layers]
            arrays[field] = np.concatenate([part.astype(dtype, copy=False) for part in parts])
            arrays[f"{field}_offset"] = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    bits = [[layer.bits.weights, layer.bits.activations] for layer in state.values()]
    return arrays | {"bits": np.array(bits, dtype=np.int64)}


def state_from_arrays(arrays: dict[str, np.ndarray], shapes: dict[str, torch.Size]) -> State:
    """Return the state of arrays that `state_to_arrays` made, from each weight's shape in the same order."""
    state = {}
    for i, (name, shape) in enumerate(shapes.items()):
        tensors = {}
        for field in FIELDS:
            if field in arrays:
                start, stop = arrays[f"{field}_offset"][i : i + 2]
                tensors[field] = torch.from_numpy(np.array(arrays[field][start:stop]))
        state[name] = SavedLayer.of(Bits(*map(int, arrays["bits"][i])), shape, tensors)
    return state


def restore(
    network: nn.Module, state: State, form: NumberFormat, rows: Rows, relaxed: RelaxedRows | None = None
) -> None:
    """Turn a floating-point network into the quantized network of `state`, in place."""
    for name, layer in state.items():
        if len(layer.codes):
            weight = network.get_parameter(f"{name}.weight")
            weight.data = layer.weight().to(weight)
    states = {name: layer.layer_state(form, relaxed) for name, layer in state.items()}
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
        branch = None
        if not isinstance(layer, QuantInput):
            scale = storable(layer.weight_step.detach().cpu(), len(layer.weight))
            codes = WeightQuantizer(scale, layer.weight_grid).codes(layer.full_weight().cpu())
            branch = _saved_branch(layer)
        state[name] = SavedLayer(
            layer_bits,
            codes.to(torch.int8),
            scale,
            layer.activation_step.detach().cpu(),
            layer.activation_zero.cpu().round().to(torch.int32),
            branch,
            None if layer.smoothing is None else layer.smoothing.cpu(),
        )
    return state


def _saved_branch(layer: QuantLinear | QuantConv2d) -> Branch | None:
    branch = layer.branch
    return branch and Branch(branch.up.detach().cpu().half(), branch.down.detach().cpu().half())
