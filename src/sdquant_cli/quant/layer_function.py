"""A linear or convolutional layer on rounded weight and input, as one differentiable operation.

It keeps for the backward pass what the layer keeps in floating point, its input and its weight, and
rounds them again there: one more pass over each costs less than a second copy of either. Layers that
share an input share what is kept.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .drop import Draw
from .grid import Grid, along_first_axis
from .rounding import round_gradients, round_values

_NO_ZERO = torch.zeros(())  # of symmetric weights


class Convolution(NamedTuple):
    """How a convolution moves over its input."""

    stride: Any
    padding: Any
    dilation: Any
    groups: int


class Quantizer(NamedTuple):
    """Step sizes and zero-points of an input, broadcastable to it, and their grid; what is left unrounded."""

    step: Tensor
    zero: Tensor
    grid: Grid
    draw: Draw | None = None


def fake_quantized_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    steps: Quantizer,
    weight_step: Tensor | None,
    weight_grid: Grid,
    convolution: Convolution | None,
) -> Tensor:
    """y = layer(round(x), round(weight)) + bias, differentiable in all of them and in both step sizes.

    `weight_step` (C_out); None: the weight is on its grid already. `convolution` None: a linear layer.
    x and weight are rounded in the format of their step sizes and cast; products, forward and backward, are
    of x's format, within torch.autocast of its.
    """
    if weight_step is not None:
        weight_step = along_first_axis(weight_step, weight)
    how = ((steps.grid, weight_grid), steps.draw, autocast_dtype(x) or x.dtype, convolution)
    result: Tensor = _RoundedLayer.apply(x, weight, bias, steps.step, weight_step, steps.zero, *how)
    return result


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The format of products within torch.autocast on x's device; None outside of it."""
    kind = x.device.type
    within = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if within else None


def _operands(
    ctx: Any, x: Tensor, weight: Tensor, step: Tensor, weight_step: Tensor | None, zero: Tensor
) -> tuple[Tensor, Tensor]:
    """Rounded input and weight in the format of products."""
    grid, weight_grid = ctx.grids
    x = round_values(x.to(step.dtype), step, zero, grid, ctx.draw)
    if weight_step is not None:
        no_zero = _NO_ZERO.to(weight.device)
        weight = round_values(weight.to(weight_step.dtype), weight_step, no_zero, weight_grid)
    return x.to(ctx.product), weight.to(ctx.product)


class _RoundedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, weight, bias, step, weight_step, zero, *how = inputs
        ctx.grids, ctx.draw, ctx.product, ctx.convolution = how
        ctx.save_for_backward(x, weight, step, weight_step, zero)
        ctx.bias_shape = None if bias is None else list(bias.shape)
        rounded, weight = _operands(ctx, x, weight, step, weight_step, zero)
        if ctx.convolution is None:
            return F.linear(rounded, weight, bias)
        return F.conv2d(rounded, weight, bias, *ctx.convolution)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        x, weight, step, weight_step, zero = ctx.saved_tensors
        grid, weight_grid = ctx.grids
        need_x, need_weight, need_bias, need_step, need_weight_step, *_ = ctx.needs_input_grad
        wanted = (need_x or need_step, need_weight or need_weight_step, need_bias)
        operands = _operands(ctx, x, weight, step, weight_step, zero)
        by_input, by_weight, by_bias = _layer_gradients(ctx, gradients[0], *operands, wanted)
        del operands
        by_step = by_weight_step = None
        if by_input is not None:
            by_input, by_step = round_gradients(
                x.to(step.dtype), by_input.to(step.dtype), step, zero, grid, ctx.draw, to_step=need_step
            )
        if by_weight is not None and weight_step is not None:
            by_weight, by_weight_step = round_gradients(
                weight.to(weight_step.dtype),
                by_weight.to(weight_step.dtype),
                weight_step,
                _NO_ZERO.to(weight.device),
                weight_grid,
                to_step=need_weight_step,
            )
        return by_input, by_weight, by_bias, by_step, by_weight_step, None, None, None, None, None


def _layer_gradients(
    ctx: Any, up: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of the floating-point layer to its input, weight and bias, those that are wanted."""
    if ctx.convolution is not None:
        stride, padding, dilation, groups = ctx.convolution
        found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            up, x, weight, ctx.bias_shape, stride, padding, dilation, False, [0, 0], groups, list(wanted)
        )
        return found
    flat = up.reshape(-1, up.shape[-1])
    return (
        (flat @ weight).view(x.shape) if wanted[0] else None,
        flat.t() @ x.reshape(-1, x.shape[-1]) if wanted[1] else None,
        flat.sum(0) if wanted[2] else None,
    )
