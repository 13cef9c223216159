"""A denoiser whose layers are integer products with constant grids, in operations that graphs can hold.

Runtimes multiply integers where the scale and zero-point of an input are constants. Ours are those of a
timestep, s_t and z_t, so the input is mapped to codes by x / s_t + z_t first, whose grid is the same at every
step: 0 ... 2^b - 1 with scale 1 and zero-point 0. The product y = W q is mapped back by
s_t y + (b - s_t z_t sum(W)), with the sum over all input channels and taps. A convolution's border is padded
before, so that the border's codes are z_t too. Both maps read tables at the row of the call's timestep, which
the graph finds itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.layers import quantizable_layers
from ..models.time_table import run_on_table
from ..quant.grid import Grid
from ..quant.layer_function import Convolution, channels_axis, convolution_of
from ..quant.relaxing import RelaxedRows
from ..quant.state import SavedLayer, State

INTEGER_BITS = 8  # of codes that runtimes multiply as integers; wider ones stay floats


class GraphRows(nn.Module):
    """The row of a call's timestep, found by operations of the graph; one timestep for the whole batch."""

    timesteps: Tensor

    def __init__(self, timesteps: Sequence[float]) -> None:
        """Take the timestep of each row."""
        super().__init__()
        self.register_buffer("timesteps", torch.tensor(timesteps, dtype=torch.float32))
        self._row: Tensor | None = None

    def current(self, _items: int) -> Tensor:
        """Return the row (1) of the current call."""
        assert self._row is not None, "call the network that the rows follow"
        return self._row

    def follow(self, network: nn.Module) -> None:
        """Find the row before each call `network(x, timestep, ...)`."""
        network.register_forward_pre_hook(self._before_call, with_kwargs=True)

    def _before_call(self, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        distance = (self.timesteps - timestep.reshape(-1)[:1].float()).abs()
        self._row = distance.argmin(dim=0, keepdim=True)


class GraphLayer(nn.Module):
    """A linear layer or convolution whose input is mapped to a constant grid, and its product back."""

    weight: Tensor  # codes int8, or floats
    scale: Tensor  # (C_out), above zero, of codes
    sign: Tensor  # (C_out), of the scale
    bias: Tensor  # (C_out)
    total: Tensor  # (C_out): the weight's sum over input channels and taps
    step: Tensor  # (rows) or (1)
    zero: Tensor  # as many
    smoothing: Tensor | None  # (C_in)
    up: Tensor  # the branch's factors, where there is one
    down: Tensor

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        saved: SavedLayer,
        rows: GraphRows,
        relaxed: RelaxedRows | None = None,
    ) -> None:
        """Take the weight from `saved`; `layer` tells how it is applied, and its bias.

        `relaxed` rows have their ranges on the usual grid.
        """
        super().__init__()
        self.convolution = convolution_of(layer)
        self.rows, self.grid = rows, Grid(saved.bits.activations, signed=False)
        self.is_integer = self.grid.bits <= INTEGER_BITS and len(saved.weight_step) == len(saved.codes)
        weight, sign = saved.weight(), torch.ones(len(saved.codes))
        if self.is_integer:  # a scale below zero is one above it, and a sign
            weight, sign = saved.codes, saved.weight_step.sign()
            self.register_buffer("scale", saved.weight_step.abs())
        self.register_buffer("weight", weight if self.convolution else weight.T.contiguous())
        self.register_buffer("sign", sign)
        bias = layer.bias
        self.register_buffer("bias", torch.zeros(len(sign)) if bias is None else bias.detach().float())
        self.register_buffer("total", saved.weight().flatten(1).sum(dim=1))
        step, zero = _on_usual_grid(saved, self.grid, relaxed)
        self.register_buffer("step", step)
        self.register_buffer("zero", zero)
        self.register_buffer("smoothing", saved.smoothing)
        self.has_branch = saved.branch is not None
        if saved.branch is not None:
            self.register_buffer("up", saved.branch.up.float())
            self.register_buffer("down", saved.branch.down.float())

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for x."""
        step, zero = self._at_row(self.step), self._at_row(self.zero)
        if self.smoothing is not None:
            x = x * _along(self.smoothing, self.convolution)
        rest = self._branch(x) if self.has_branch else None
        if self.convolution is not None:
            height, width = self.convolution.padding
            x = F.pad(x, (width, width, height, height))
        product = self._product(x / step + zero)
        offset = self.bias - step * zero * self.total
        y = product * _along(step * self.sign, self.convolution) + _along(offset, self.convolution)
        return y if rest is None else y + rest

    def _product(self, x: Tensor) -> Tensor:
        """Return the weight applied to codes of a padded input, which is in units of its scale."""
        weight = self.weight
        if self.is_integer:
            axis = 1 if self.convolution is None else 0
            weight = _Dequantized.apply(weight, self.scale, axis)
            codes = _OnGrid.apply(x, self.grid.high)
        else:
            codes = x.round().clamp(self.grid.low, self.grid.high)
        if self.convolution is None:
            return codes @ weight
        stride, _, dilation, groups = self.convolution
        return F.conv2d(codes, weight, None, stride, 0, dilation, groups)

    def _at_row(self, table: Tensor) -> Tensor:
        return table if len(table) == 1 else table[self.rows.current(1)]

    def _branch(self, x: Tensor) -> Tensor:
        if self.convolution is None:
            return F.linear(F.linear(x, self.down), self.up)
        return F.conv2d(F.conv2d(x, self.down, None, *self.convolution), self.up[:, :, None, None])


class _OnGrid(torch.autograd.Function):
    """Rounding to the codes of integers with scale 1; QuantizeLinear and DequantizeLinear in a graph."""

    @staticmethod
    def forward(_: Any, x: Tensor, high: int) -> Tensor:
        return x.round().clamp(0, high)

    @staticmethod
    def symbolic(g: Any, x: Any, high: int) -> Any:
        if high < 2**INTEGER_BITS - 1:
            x = g.op("Min", x, g.op("Constant", value_t=torch.tensor(float(high))))
        one = g.op("Constant", value_t=torch.tensor(1.0))
        zero = g.op("Constant", value_t=torch.tensor(0, dtype=torch.uint8))
        codes = g.op("QuantizeLinear", x, one, zero)
        return g.op("DequantizeLinear", codes, one, zero)


class _Dequantized(torch.autograd.Function):
    """Codes int8 times the scale of their output channel on an axis; DequantizeLinear in a graph."""

    @staticmethod
    def forward(_: Any, codes: Tensor, scale: Tensor, axis: int) -> Tensor:
        shape = [1] * codes.dim()
        shape[axis] = -1
        return codes.float() * scale.view(shape)

    @staticmethod
    def symbolic(g: Any, codes: Any, scale: Any, axis: int) -> Any:
        return g.op("DequantizeLinear", codes, scale, axis_i=axis)  # a zero-point would keep it from integers


def _on_usual_grid(saved: SavedLayer, grid: Grid, relaxed: RelaxedRows | None) -> tuple[Tensor, Tensor]:
    """Return scales and zero-points by row, those of relaxed rows for the same range on the usual grid."""
    step, zero = saved.activation_step.clone(), saved.activation_zero.float()
    wider = relaxed.for_layer(grid.bits, len(step)) if relaxed else None
    if wider is not None:
        coarser = wider.grid.high / grid.high
        step[wider.rows] *= coarser
        zero[wider.rows] = (zero[wider.rows] / coarser).round()
    return step, zero


def _along(values: Tensor, convolution: Convolution | None) -> Tensor:
    """Return values of channels, to broadcast along the channels of an input or output."""
    return values if channels_axis(convolution) == -1 else values[:, None, None]


def lowered(
    network: nn.Module,
    state: State,
    timesteps: Sequence[float],
    table: dict[str, Tensor] | None,
    relaxed: RelaxedRows | None = None,
) -> nn.Module:
    """Turn a floating-point denoiser into one of `GraphLayer`s, in place, and return it.

    `table` has the time features by row where the time path leaves the network.
    """
    rows = GraphRows(timesteps)
    if table is None:
        rows.follow(network)
    else:
        run_on_table(network, table, rows)
    layers = quantizable_layers(network)
    for name, saved in state.items():
        network.set_submodule(name, GraphLayer(layers[name], saved, rows, relaxed))
    network.rows_of_graph = rows  # registered, so that its buffer is exported
    return network
