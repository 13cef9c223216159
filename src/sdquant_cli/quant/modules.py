"""Layers that compute with rounded weights and inputs. The forward pass is the specification of the
integer one. Both are subclasses of the layers they replace, so adapters and hooks still know them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .grid import Grid
from .rounding import fake_quantize
from .rows import Rows


@dataclass(frozen=True)
class LayerState:
    """Numbers of one quantized layer: weight step sizes (C_out), activation tables (rows) or (1)."""

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


class _Quantized(nn.Module):
    """What both layer types share: the parameters, and rounding of weight and input."""

    weight: Any  # declared by the layer type
    activation_zero: Tensor
    weight_grid: Grid
    activation_grid: Grid
    weights_on_grid: bool
    rows: Rows  # shared by all layers of a network

    def install(self, state: LayerState, rows: Rows, *, weights_on_grid: bool) -> None:
        self.weight_step = nn.Parameter(state.weight_step.clone())
        self.activation_step = nn.Parameter(state.activation_step.clone())
        self.register_buffer("activation_zero", state.activation_zero.clone())
        self.weight_grid, self.activation_grid = state.weight_grid, state.activation_grid
        self.weights_on_grid = weights_on_grid
        self.rows = rows

    def rounded_weight(self) -> Tensor:
        """The weight on its grid, differentiable in weight and step size."""
        if self.weights_on_grid:
            return self.weight
        step = self.weight_step.view(-1, *[1] * (self.weight.dim() - 1))
        return fake_quantize(self.weight, step, torch.zeros((), device=step.device), self.weight_grid)

    def rounded_input(self, x: Tensor) -> Tensor:
        """The input on the grid of each item's row."""
        step: Tensor = self.activation_step
        zero = self.activation_zero
        if len(step) > 1:
            row = self.rows.current(len(x))
            step, zero = step[row], zero[row]
        shape = (-1, *[1] * (x.dim() - 1))
        return fake_quantize(
            x, step.view(shape).to(x.dtype), zero.view(shape).to(x.dtype), self.activation_grid
        )


class QuantLinear(_Quantized, nn.Linear):
    """nn.Linear on rounded weight and input (..., in_features)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return F.linear(self.rounded_input(input), self.rounded_weight(), self.bias)


class QuantConv2d(_Quantized, nn.Conv2d):
    """nn.Conv2d on rounded weight and input (N,C,H,W); zero padding is exact, zero is on the grid."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return self._conv_forward(self.rounded_input(input), self.rounded_weight(), self.bias)


def quantized(
    layer: nn.Linear | nn.Conv2d, state: LayerState, rows: Rows, *, weights_on_grid: bool
) -> nn.Module:
    """The quantized twin of a layer, sharing its weight and bias tensors."""
    twin: QuantLinear | QuantConv2d
    with torch.device("meta"):
        if isinstance(layer, nn.Linear):
            twin = QuantLinear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        else:
            twin = QuantConv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                stride=layer.stride,  # type: ignore[arg-type]
                padding=layer.padding,  # type: ignore[arg-type]
                dilation=layer.dilation,  # type: ignore[arg-type]
                groups=layer.groups,
                bias=layer.bias is not None,
                padding_mode=layer.padding_mode,
            )
    twin.weight, twin.bias = layer.weight, layer.bias
    twin.install(state, rows, weights_on_grid=weights_on_grid)
    return twin.train(layer.training)
