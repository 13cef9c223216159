"""Modules that compute with rounded numbers. The forward pass is the specification of the integer one.
Layers are subclasses of the layers they replace, so adapters and hooks still know them.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .drop import Drop
from .grid import Grid, along_first_axis
from .layer_function import Convolution, Quantizer, fake_quantized_layer
from .relaxing import RelaxedRows
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
    relaxed: RelaxedRows | None = None

    def to(self, device: torch.device) -> "LayerState":
        return replace(
            self,
            weight_step=self.weight_step.to(device),
            activation_step=self.activation_step.to(device),
            activation_zero=self.activation_zero.to(device),
        )


class InputQuantizer(nn.Module):
    """What all types share: tables by which the input is rounded."""

    activation_zero: Tensor
    activation_grid: Grid
    relaxed: RelaxedRows | None
    rows: Rows  # shared by all modules of a network
    drop: Drop | None  # leaves part of the input unrounded, while something is trained

    def install_tables(self, state: LayerState, rows: Rows) -> None:
        self.activation_step = nn.Parameter(state.activation_step.clone())
        self.register_buffer("activation_zero", state.activation_zero.clone())
        self.activation_grid, self.relaxed, self.rows = state.activation_grid, state.relaxed, rows
        self.drop = None

    def quantize_input(self, x: Tensor) -> Tensor:
        """x rounded by each item's row, but for what is dropped."""
        if self._all_dropped:
            return x
        grid = self._only_grid()
        steps = self._steps(x, grid or self.activation_grid)
        y = fake_quantize(x, *steps)
        if grid is None:  # items at steps of both kinds
            assert self.relaxed is not None
            wide = self.relaxed.rows.to(x.device)[self.rows.current(len(x))]
            wider = fake_quantize(x, *steps._replace(grid=self.relaxed.grid))
            y = torch.where(along_first_axis(wide, x), wider, y)
        return y

    @property
    def _all_dropped(self) -> bool:
        return self.drop is not None and self.drop.all

    def grid_of(self, row: int) -> Grid:
        """Of inputs at a row."""
        if self.relaxed is not None and bool(self.relaxed.rows[row]):
            return self.relaxed.grid
        return self.activation_grid

    def _steps(self, x: Tensor, grid: Grid) -> Quantizer:
        """Of each item's row, to round x by; with a new draw while inputs are dropped."""
        step: Tensor = self.activation_step
        zero = self.activation_zero
        if len(step) > 1:
            row = self.rows.current(len(x))
            step, zero = step[row], zero[row]
        dtype = torch.promote_types(x.dtype, torch.float32)  # codes of 16 bits need 16 bits of mantissa
        draw = None if self.drop is None else self.drop.draw()
        step, zero = (along_first_axis(table, x).to(dtype) for table in (step, zero))
        return Quantizer(step, zero, grid, draw)

    def _only_grid(self) -> Grid | None:
        """The grid of the inputs of all items in hand, if it is the same."""
        if self.relaxed is None:
            return self.activation_grid
        return None if self.rows.shared is None else self.grid_of(self.rows.shared)


class QuantInput(InputQuantizer):
    """Stands where an nn.Identity was: gives its input, rounded."""

    def __init__(self, state: LayerState, rows: Rows) -> None:
        super().__init__()
        self.install_tables(state, rows)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return self.quantize_input(input)


class _Quantized(InputQuantizer):
    """What both layer types share: the parameters, and rounding of weight and input."""

    weight: Any  # declared by the layer type
    bias: Any
    weight_grid: Grid
    weights_on_grid: bool
    weight_transform: nn.Module | None  # makes the weight from the stored one, while that is trained

    def install(self, state: LayerState, rows: Rows, *, weights_on_grid: bool) -> None:
        self.weight_step = nn.Parameter(state.weight_step.clone())
        self.install_tables(state, rows)
        self.weight_grid, self.weights_on_grid = state.weight_grid, weights_on_grid
        self.weight_transform = None

    def full_weight(self) -> Tensor:
        """The weight before rounding."""
        return self.weight if self.weight_transform is None else self.weight_transform(self.weight)

    def rounded(self, x: Tensor, convolution: Convolution | None) -> Tensor:
        """The layer's output on rounded weight and on x rounded by each item's row."""
        weight_step = None if self.weights_on_grid else self.weight_step
        if not self._all_dropped and (grid := self._only_grid()) is not None:
            steps = self._steps(x, grid)
            return fake_quantized_layer(
                x, self.full_weight(), self.bias, steps, weight_step, self.weight_grid, convolution
            )
        x, weight = self.quantize_input(x), self.full_weight()
        if weight_step is not None:
            step = along_first_axis(weight_step, weight)
            weight = fake_quantize(weight, step, torch.zeros_like(step), self.weight_grid)
        if convolution is None:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, *convolution)


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
