"""Modules that compute with rounded numbers. The forward pass is the specification of the integer one.
Layers are subclasses of the layers they replace, so adapters and hooks still know them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .grid import Grid
from .rounded import Convolution, Steps, rounded_layer
from .rounding import fake_quantize
from .rows import Rows


@dataclass(frozen=True)
class LayerState:
    """Numbers of one quantized module: weight step sizes (C_out), activation tables (rows) or (1).

    C_out is 0 where there is no weight.
    """

    weight_step: Tensor
    activation_step: Tensor
    activation_zero: Tensor
    weight_grid: Grid
    activation_grid: Grid

    def to(self, device: torch.device) -> "LayerState":
        return LayerState(
            self.weight_step.to(device),
            self.activation_step.to(device),
            self.activation_zero.to(device),
            self.weight_grid,
            self.activation_grid,
        )


class _RoundsInput(nn.Module):
    """What all types share: tables by which the input is rounded."""

    activation_zero: Tensor
    activation_grid: Grid
    rows: Rows  # shared by all modules of a network

    def install_tables(self, state: LayerState, rows: Rows) -> None:
        self.activation_step = nn.Parameter(state.activation_step.clone())
        self.register_buffer("activation_zero", state.activation_zero.clone())
        self.activation_grid, self.rows = state.activation_grid, rows

    def steps_for(self, x: Tensor) -> Steps:
        """Of each item's row, to round x by."""
        step: Tensor = self.activation_step
        zero = self.activation_zero
        if len(step) > 1:
            row = self.rows.current(len(x))
            step, zero = step[row], zero[row]
        shape = (-1, *[1] * (x.dim() - 1))
        return Steps(step.view(shape).to(x.dtype), zero.view(shape).to(x.dtype), self.activation_grid)


class QuantInput(_RoundsInput):
    """Stands where an nn.Identity was: gives its input, rounded."""

    def __init__(self, state: LayerState, rows: Rows) -> None:
        super().__init__()
        self.install_tables(state, rows)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return fake_quantize(input, *self.steps_for(input))


class _Quantized(_RoundsInput):
    """What both layer types share: the parameters, and rounding of weight and input."""

    weight: Any  # declared by the layer type
    bias: Any
    weight_grid: Grid
    weights_on_grid: bool
    low_rank: nn.Module | None  # makes an update of the weight's shape, where one is trained

    def install(self, state: LayerState, rows: Rows, *, weights_on_grid: bool) -> None:
        self.weight_step = nn.Parameter(state.weight_step.clone())
        self.install_tables(state, rows)
        self.weight_grid, self.weights_on_grid = state.weight_grid, weights_on_grid
        self.low_rank = None

    def full_weight(self) -> Tensor:
        """The weight before rounding: with its low-rank update, if it has one."""
        return self.weight if self.low_rank is None else self.weight + self.low_rank()

    def rounded(self, x: Tensor, convolution: Convolution | None) -> Tensor:
        """The layer's output on rounded weight and on x rounded by each item's row."""
        return rounded_layer(
            x,
            self.full_weight(),
            self.bias,
            self.steps_for(x),
            None if self.weights_on_grid else self.weight_step,
            self.weight_grid,
            convolution,
        )


class QuantLinear(_Quantized, nn.Linear):
    """nn.Linear on rounded weight and input (..., in_features)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return self.rounded(input, None)


class QuantConv2d(_Quantized, nn.Conv2d):
    """nn.Conv2d on rounded weight and input (N,C,H,W); zero padding is exact, zero is on the grid."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return self.rounded(input, Convolution(self.stride, self.padding, self.dilation, self.groups))


def empty_twin(layer: nn.Linear | nn.Conv2d, linear: type[nn.Linear], convolution: type[nn.Conv2d]) -> Any:
    """A layer of the same shape and bias, of another class, its weight without numbers.

    Raises NotImplementedError for a convolution that does not pad with zeros: zero alone is on the grid.
    """
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        raise NotImplementedError(f"padding {layer.padding!r} of mode {layer.padding_mode!r}")
    twin: nn.Linear | nn.Conv2d
    with torch.device("meta"):
        if isinstance(layer, nn.Linear):
            twin = linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        else:
            twin = convolution(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                stride=layer.stride,  # type: ignore[arg-type]
                padding=layer.padding,  # type: ignore[arg-type]
                dilation=layer.dilation,  # type: ignore[arg-type]
                groups=layer.groups,
                bias=layer.bias is not None,
            )
    twin.bias = layer.bias
    return twin.train(layer.training)


def quantized(
    layer: nn.Linear | nn.Conv2d | nn.Identity, state: LayerState, rows: Rows, *, weights_on_grid: bool
) -> nn.Module:
    """The quantized twin of a layer, sharing its weight and bias tensors; raises as `empty_twin`."""
    if isinstance(layer, nn.Identity):
        return QuantInput(state, rows)
    twin: QuantLinear | QuantConv2d = empty_twin(layer, QuantLinear, QuantConv2d)
    twin.weight = layer.weight
    twin.install(state, rows, weights_on_grid=weights_on_grid)
    return twin
