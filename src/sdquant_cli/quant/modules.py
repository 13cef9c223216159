"""Quantized layers, simulated in floating point; their forward pass is the specification of the integer one.

A quantizer maps a number x to an integer code q = clip(round(x / s) + z, low, high), and a code back to the
value (q - z) s. The scale s is the distance between neighbouring values, the zero-point z the code of 0, and
the number of bits decides low and high (`grid.Grid`). Doing both at once is fake quantization: x moves to
the nearest value that has a code, and stays a floating-point number. A quantized layer fake-quantizes its
weight and its input and then multiplies them as the original layer does.

A weight is symmetric (z = 0), with one scale for each output channel. An input has a scale and a zero-point.
Since a denoiser's inputs change along the denoising steps, a layer may hold a table of them with one entry
per timestep of the schedule, its rows; `Rows` finds the row of every item of a batch from the timestep that
the network is called with. A table of one entry serves all timesteps. Some rows may have wider grids
(`RelaxedRows`). The tables keep the names they have in stored artifacts: `weight_step` and `activation_step`
hold scales (step sizes), `activation_zero` zero-points.

Rounding has no useful gradient, so a straight-through gradient takes its place: values inside the range pass
it on unchanged, clipped ones stop it; scales get the gradient of LSQ (`rounding`). While something is
trained, `weight_transform` changes the weight before it is rounded (AdaRound, low-rank updates) and `drop`
leaves part of the input unrounded (QDrop).

Layers are subclasses of the layers they replace, so adapters and hooks still know them.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .drop import Drop
from .grid import Grid, along_first_axis
from .layer_function import Convolution, fake_quantized_layer
from .relaxing import RelaxedRows
from .rounding import Quantizer, fake_quantize
from .rows import Rows

LinearT = TypeVar("LinearT", bound=nn.Linear)
ConvT = TypeVar("ConvT", bound=nn.Conv2d)


@dataclass(frozen=True)
class LayerState:
    """The numbers of one quantized module; a place without a weight has no weight scales (C_out = 0)."""

    weight_step: Tensor  # (C_out) scales
    activation_step: Tensor  # (rows) or (1) scales
    activation_zero: Tensor  # (rows) or (1) zero-points
    weight_grid: Grid
    activation_grid: Grid
    relaxed: RelaxedRows | None = None

    def to(self, device: torch.device) -> "LayerState":
        """Return the state with its tensors on a device."""
        return replace(
            self,
            weight_step=self.weight_step.to(device),
            activation_step=self.activation_step.to(device),
            activation_zero=self.activation_zero.to(device),
        )


class InputQuantizer(nn.Module):
    """Base of all quantized modules: the tables that round an input."""

    activation_zero: Tensor
    activation_grid: Grid
    relaxed: RelaxedRows | None
    rows: Rows  # shared by all modules of a network
    drop: Drop | None  # leaves part of the input unrounded, while something is trained

    def install_tables(self, state: LayerState, rows: Rows) -> None:
        """Copy the tables of a state into this module."""
        self.activation_step = nn.Parameter(state.activation_step.clone())
        self.register_buffer("activation_zero", state.activation_zero.clone())
        self.activation_grid, self.relaxed, self.rows = state.activation_grid, state.relaxed, rows
        self.drop = None

    def quantize_input(self, x: Tensor) -> Tensor:
        """Return x fake-quantized by the row of each item, except for what is dropped."""
        if self._all_dropped:
            return x
        grid = self._common_grid()
        quantizer = self._quantizer(x, grid or self.activation_grid)
        y = fake_quantize(x, quantizer)
        if grid is None:  # some items are at relaxed rows, others not
            assert self.relaxed is not None
            is_relaxed = self.relaxed.rows.to(x.device)[self.rows.current(len(x))]
            wider = fake_quantize(x, quantizer._replace(grid=self.relaxed.grid))
            y = torch.where(along_first_axis(is_relaxed, x), wider, y)
        return y

    @property
    def _all_dropped(self) -> bool:
        return self.drop is not None and self.drop.all

    def grid_of(self, row: int) -> Grid:
        """Return the grid of inputs at a row."""
        if self.relaxed is not None and bool(self.relaxed.rows[row]):
            return self.relaxed.grid
        return self.activation_grid

    def _quantizer(self, x: Tensor, grid: Grid) -> Quantizer:
        """Return the quantizer of x by each item's row, with a new draw while inputs are dropped."""
        scale: Tensor = self.activation_step
        zero_point = self.activation_zero
        if len(scale) > 1:
            row = self.rows.current(len(x))
            scale, zero_point = scale[row], zero_point[row]
        dtype = torch.promote_types(x.dtype, torch.float32)  # codes of 16 bits need 16 bits of mantissa
        return Quantizer(
            along_first_axis(scale, x).to(dtype),
            along_first_axis(zero_point, x).to(dtype),
            grid,
            None if self.drop is None else self.drop.draw(),
        )

    def _common_grid(self) -> Grid | None:
        """Return the grid of all items of the current batch; None if they differ."""
        if self.relaxed is None:
            return self.activation_grid
        return None if self.rows.shared is None else self.grid_of(self.rows.shared)


class QuantInput(InputQuantizer):
    """A quantizer in place of an nn.Identity: it returns its input fake-quantized."""

    def __init__(self, state: LayerState, rows: Rows) -> None:
        super().__init__()
        self.install_tables(state, rows)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the input (N,...) fake-quantized."""
        return self.quantize_input(input)


class _QuantLayer(InputQuantizer):
    """Base of both layer types: weight scales, and the layer on fake-quantized weight and input."""

    weight: Tensor
    weight_grid: Grid
    weights_on_grid: bool  # the weight is rounded already
    weight_transform: nn.Module | None  # makes the weight from the stored one, while that is trained

    def install(self, state: LayerState, rows: Rows, *, weights_on_grid: bool) -> None:
        """Copy the numbers of a state into this layer."""
        self.weight_step = nn.Parameter(state.weight_step.clone())
        self.install_tables(state, rows)
        self.weight_grid, self.weights_on_grid = state.weight_grid, weights_on_grid
        self.weight_transform = None

    def full_weight(self) -> Tensor:
        """Return the weight before rounding."""
        return self.weight if self.weight_transform is None else self.weight_transform(self.weight)

    def fake_quantized(self, x: Tensor, bias: Tensor | None, convolution: Convolution | None) -> Tensor:
        """Return the layer's output on fake-quantized weight and input; `convolution` None: linear."""
        weight_quantizer = None
        weight = self.full_weight()
        if not self.weights_on_grid:
            weight_scale = along_first_axis(self.weight_step, weight)
            weight_quantizer = Quantizer.symmetric(weight_scale, self.weight_grid)
        grid = None if self._all_dropped else self._common_grid()
        if grid is not None:
            quantizer = self._quantizer(x, grid)
            return fake_quantized_layer(x, weight, bias, quantizer, weight_quantizer, convolution)
        x = self.quantize_input(x)
        if weight_quantizer is not None:
            weight = fake_quantize(weight, weight_quantizer)
        if convolution is None:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, *convolution)


class QuantLinear(_QuantLayer, nn.Linear):
    """nn.Linear on fake-quantized weight and input (...,in_features)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return (...,out_features)."""
        return self.fake_quantized(input, self.bias, None)


class QuantConv2d(_QuantLayer, nn.Conv2d):
    """nn.Conv2d on fake-quantized weight and input (N,C,H,W); zero padding is exact, zero is on the grid."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return (N,C_out,H',W')."""
        assert not isinstance(self.padding, str)
        convolution = Convolution(self.stride, self.padding, self.dilation, self.groups)
        return self.fake_quantized(input, self.bias, convolution)


def empty_twin(
    layer: nn.Linear | nn.Conv2d, linear: type[LinearT], convolution: type[ConvT]
) -> LinearT | ConvT:
    """Return a layer of another class with the shape and bias of `layer`, its weight on the meta device.

    Raises NotImplementedError for a convolution that does not pad with zeros: zero alone is on the grid.
    """
    if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        raise NotImplementedError(f"padding {layer.padding!r} of mode {layer.padding_mode!r}")
    twin: LinearT | ConvT
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


def quantized_layer(
    layer: nn.Linear | nn.Conv2d | nn.Identity, state: LayerState, rows: Rows, *, weights_on_grid: bool
) -> nn.Module:
    """Return the quantized twin of a layer, sharing its weight and bias tensors; raises as `empty_twin`."""
    if isinstance(layer, nn.Identity):
        return QuantInput(state, rows)
    twin = empty_twin(layer, QuantLinear, QuantConv2d)
    twin.weight = layer.weight
    twin.install(state, rows, weights_on_grid=weights_on_grid)
    return twin
