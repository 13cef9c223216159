"""Quantized layers, simulated in floating point; their forward pass is the specification of the integer one.

A quantizer maps a number x to an integer code q = clip(round(x / s) + z, low, high), and a code back to the
value (q - z) s. The scale s is the distance between neighbouring values, the zero-point z the code of 0, and
the number of bits decides low and high (`grid.Grid`). Doing both at once is fake quantization: x moves to
the nearest value that has a code, and stays a floating-point number. A quantized layer fake-quantizes its
weight and its input and then multiplies them as the original layer does.

A weight is symmetric (z = 0), with one scale for each output channel or group of its inputs (`weights`).

An input has a scale and a zero-point. Either they are found when the layer runs, for each token or pixel
(`tokens`), or a layer holds them. Since a denoiser's inputs change along the denoising steps, it may hold a
table with one entry per timestep of the schedule, its rows; `Rows` finds the row of every item of a batch
from the timestep that the network is called with. A table of one entry serves all timesteps. Some rows may
have wider grids (`RelaxedRows`). The tables keep the names they have in stored artifacts: `weight_step` and
`activation_step` hold scales (step sizes), `activation_zero` zero-points.

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

from .branch import Branch
from .drop import Draw, Drop
from .grid import Grid, along_first_axis
from .layer_function import Convolution, channels_axis, convolution_of, fake_quantized_layer
from .relaxing import RelaxedRows
from .rounding import Quantizer, fake_quantize, round_through
from .rows import Rows
from .smoothing import smoothed_input, smoothed_weight
from .tokens import TokenQuantizer, fake_quantize_tokens
from .weights import WeightQuantizer

LinearT = TypeVar("LinearT", bound=nn.Linear)
ConvT = TypeVar("ConvT", bound=nn.Conv2d)


@dataclass(frozen=True)
class LayerState:
    """The numbers of one quantized module; a place without a weight has no weight scales (C_out = 0)."""

    weight_step: Tensor  # (C_out G) scales
    activation_step: Tensor  # (rows) or (1) scales; (0) where each token has its own
    activation_zero: Tensor  # as many zero-points
    weight_grid: Grid
    activation_grid: Grid
    relaxed: RelaxedRows | None = None
    per_token: bool = False
    branch: Branch | None = None  # that the weight on the grid leaves out
    smoothing: Tensor | None = (
        None  # (C_in) multipliers of the input's channels, by which the weight is divided
    )

    def to(self, device: torch.device) -> "LayerState":
        """Return the state with its tensors on a device."""
        return replace(
            self,
            weight_step=self.weight_step.to(device),
            activation_step=self.activation_step.to(device),
            activation_zero=self.activation_zero.to(device),
            branch=self.branch and self.branch.to(device),
            smoothing=None if self.smoothing is None else self.smoothing.to(device),
        )


class InputQuantizer(nn.Module):
    """Base of all quantized modules: rounds an input."""

    activation_zero: Tensor  # codes; in training between them
    activation_grid: Grid
    smoothing: Tensor | None  # multipliers of channels, before they are rounded
    relaxed: RelaxedRows | None
    rows: Rows  # shared by all modules of a network
    token_axis: int | None  # of the channels that share a scale found at run time; None: the tables serve
    drop: Drop | None  # leaves part of the input unrounded, while something is trained

    def install_input(self, state: LayerState, rows: Rows, channels: int) -> None:
        """Copy what rounds inputs from a state; `channels` is the axis that they have their channels at."""
        self.activation_step = nn.Parameter(state.activation_step.clone())
        self.register_buffer("activation_zero", state.activation_zero.clone())
        self.register_buffer("smoothing", state.smoothing)
        self.activation_grid, self.relaxed, self.rows = state.activation_grid, state.relaxed, rows
        self.token_axis = channels if state.per_token else None
        self.drop = None

    def quantize_input(self, x: Tensor) -> Tensor:
        """Return x fake-quantized, each item by its row, except for what is dropped."""
        if self._all_dropped:
            return x
        if self.token_axis is not None:
            return fake_quantize_tokens(x, self._token_quantizer(self.token_axis))
        if not self._grids_differ:
            return fake_quantize(x, self._row_quantizer(x, self._shared_grid))
        assert self.relaxed is not None
        quantizer = self._row_quantizer(x, self.activation_grid)
        wider = fake_quantize(x, quantizer._replace(grid=self.relaxed.grid))
        is_relaxed = self.relaxed.rows.to(x.device)[self.rows.current(len(x))]
        return torch.where(along_first_axis(is_relaxed, x), wider, fake_quantize(x, quantizer))

    @property
    def _all_dropped(self) -> bool:
        return self.drop is not None and self.drop.all

    @property
    def _grids_differ(self) -> bool:
        """Whether some items of the current batch are at relaxed rows and others may not be."""
        return self.relaxed is not None and self.rows.shared is None

    def grid_of(self, row: int) -> Grid:
        """Return the grid of inputs at a row."""
        if self.relaxed is not None and bool(self.relaxed.rows[row]):
            return self.relaxed.grid
        return self.activation_grid

    @property
    def _shared_grid(self) -> Grid:
        """The grid of all items of the current batch, if it is the same."""
        shared = self.rows.shared if self.relaxed is not None else None
        return self.activation_grid if shared is None else self.grid_of(shared)

    def _quantizer(self, x: Tensor) -> Quantizer | TokenQuantizer:
        """Return the quantizer of a batch whose items have the same grid."""
        if self.token_axis is not None:
            return self._token_quantizer(self.token_axis)
        return self._row_quantizer(x, self._shared_grid)

    def _token_quantizer(self, axis: int) -> TokenQuantizer:
        return TokenQuantizer(axis, self.activation_grid, self._draw())

    def _row_quantizer(self, x: Tensor, grid: Grid) -> Quantizer:
        """Return the quantizer of x by each item's row, with a new draw while inputs are dropped."""
        scale: Tensor = self.activation_step
        zero_point = self.activation_zero
        if len(scale) > 1:
            row = self.rows.current(len(x))
            scale, zero_point = scale[row], zero_point[row]
        if zero_point.requires_grad:  # in training, between codes
            zero_point = round_through(zero_point)
        dtype = torch.promote_types(x.dtype, torch.float32)  # codes of 16 bits need 16 bits of mantissa
        return Quantizer(
            along_first_axis(scale, x).to(dtype),
            along_first_axis(zero_point, x).to(dtype),
            grid,
            self._draw(),
        )

    def _draw(self) -> Draw | None:
        return None if self.drop is None else self.drop.draw()


class QuantInput(InputQuantizer):
    """A quantizer in place of an nn.Identity: it returns its input fake-quantized."""

    def __init__(self, state: LayerState, rows: Rows, channels: int) -> None:
        super().__init__()
        self.install_input(state, rows, channels)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the input (N,...) fake-quantized."""
        return self.quantize_input(input)


class _QuantLayer(InputQuantizer):
    """Base of both layer types: weight scales, and the layer on fake-quantized weight and input."""

    weight: Tensor
    weight_grid: Grid
    weights_on_grid: bool  # the weight is rounded already
    branch_up: nn.Parameter | None  # of the branch, if there is one
    branch_down: nn.Parameter | None
    weight_transform: nn.Module | None  # makes the weight from the stored one, while that is trained

    def install(self, state: LayerState, rows: Rows, *, weights_on_grid: bool) -> None:
        """Copy the numbers of a state into this layer."""
        self.weight_step = nn.Parameter(state.weight_step.clone())
        self.install_input(state, rows, channels_axis(convolution_of(self)))
        self.weight_grid, self.weights_on_grid = state.weight_grid, weights_on_grid
        self.weight_transform = self.branch_up = self.branch_down = None
        if state.branch is not None:
            self.branch_up = nn.Parameter(state.branch.up.float(), requires_grad=False)
            self.branch_down = nn.Parameter(state.branch.down.float(), requires_grad=False)

    @property
    def branch(self) -> Branch | None:
        """The low-rank branch, if there is one."""
        if self.branch_up is None or self.branch_down is None:
            return None
        return Branch(self.branch_up, self.branch_down)

    def full_weight(self) -> Tensor:
        """Return the weight before rounding."""
        return self.weight if self.weight_transform is None else self.weight_transform(self.weight)

    def fake_quantized(self, x: Tensor, bias: Tensor | None, convolution: Convolution | None) -> Tensor:
        """Return the layer's output on fake-quantized weight and input; `convolution` None: linear."""
        weight_quantizer, original, smoothing = None, x, self.smoothing
        if not self.weights_on_grid:
            weight_quantizer = WeightQuantizer(self.weight_step, self.weight_grid)
        quantizer = None  # the input is rounded here, or not at all
        if self._grids_differ:
            x, smoothing = self.quantize_input(self.smoothed(x)).to(x.dtype), None
        elif not self._all_dropped:
            quantizer = self._quantizer(x)
        weight, branch = self.full_weight(), self.branch
        y = fake_quantized_layer(x, weight, bias, quantizer, weight_quantizer, convolution, smoothing)
        if branch is not None:
            y = y + branch.output(self.smoothed(original).to(original.dtype), convolution)
        return y

    def smoothed(self, x: Tensor) -> Tensor:
        """Return an input as it is before it is rounded."""
        return smoothed_input(x, self.smoothing, channels_axis(convolution_of(self)))


class QuantLinear(_QuantLayer, nn.Linear):
    """nn.Linear on fake-quantized weight and input (...,in_features)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return (...,out_features)."""
        return self.fake_quantized(input, self.bias, None)


class QuantConv2d(_QuantLayer, nn.Conv2d):
    """nn.Conv2d on fake-quantized weight and input (N,C,H,W); zero padding is exact, zero is on the grid."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return (N,C_out,H',W')."""
        return self.fake_quantized(input, self.bias, convolution_of(self))


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
    """Return the quantized twin of a layer, sharing its bias and, if it can, its weight tensor.

    With a branch or a smoothing the twin's weight is another, unless it is on its grid already.

    Raises as `empty_twin`.
    """
    if isinstance(layer, nn.Identity):
        return QuantInput(state, rows, getattr(layer, "channels_axis", -1))
    twin = empty_twin(layer, QuantLinear, QuantConv2d)
    twin.weight = layer.weight
    if not weights_on_grid and (state.branch is not None or state.smoothing is not None):
        residual = smoothed_weight(layer.weight.detach(), state.smoothing)
        if state.branch is not None:
            residual = residual - state.branch.weight.to(layer.weight)
        twin.weight = nn.Parameter(residual, requires_grad=layer.weight.requires_grad)
    twin.install(state, rows, weights_on_grid=weights_on_grid)
    return twin
