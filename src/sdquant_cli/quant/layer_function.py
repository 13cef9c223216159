"""A linear or convolutional layer on rounded weight and input, as one differentiable operation.

It keeps for the backward pass what the layer keeps in floating point, its input and its weight, and
rounds them again there: one more pass over each costs less than a second copy of either. Layers that
share an input share what is kept.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .grid import Grid
from .rounding import Quantizer, round_gradients, round_values, zero_point_gradient
from .smoothing import smoothed_input
from .tokens import TokenQuantizer
from .weights import WeightQuantizer


class Convolution(NamedTuple):
    """The stride, padding, dilation and groups of a convolution; padding is with zeros."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def convolution_of(layer: nn.Module) -> Convolution | None:
    """Return how a convolution moves over its input, None for a linear layer."""
    if not isinstance(layer, nn.Conv2d):
        return None
    assert not isinstance(layer.padding, str)
    return Convolution(layer.stride, layer.padding, layer.dilation, layer.groups)


def channels_axis(convolution: Convolution | None) -> int:
    """Return the axis that a layer's input has its channels at."""
    return -1 if convolution is None else 1


def fake_quantized_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    quantizer: Quantizer | TokenQuantizer | None,
    weight_quantizer: WeightQuantizer | None,
    convolution: Convolution | None,
    smoothing: Tensor | None = None,
) -> Tensor:
    """Return layer(round(x), round(weight)) + bias, differentiable in all of them and in both scales.

    A quantizer that is None rounds nothing. `convolution` None: a linear layer. `smoothing` (C_in) multiplies
    x before it is rounded.
    x and weight are rounded in the dtype of their scales and cast; products, forward and backward, are of
    x's dtype, within torch.autocast of its.
    """
    of_input = (quantizer.scale, quantizer.zero_point) if isinstance(quantizer, Quantizer) else (None, None)
    context = _LayerContext(
        quantizer,
        None if weight_quantizer is None else weight_quantizer.grid,
        autocast_dtype(x) or x.dtype,
        convolution,
        None if bias is None else list(bias.shape),
        smoothing,
    )
    weight_scale = None if weight_quantizer is None else weight_quantizer.scale
    result: Tensor = _FakeQuantizedLayer.apply(context, bias, *of_input, x, weight, weight_scale)
    return result


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype of products within torch.autocast on x's device; None outside of it."""
    kind = x.device.type
    within = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if within else None


class _LayerContext(NamedTuple):
    """The values that both passes need besides the tensors that get gradients."""

    quantizer: Quantizer | TokenQuantizer | None  # of the input
    weight_grid: Grid | None  # None: the weight is not rounded
    product_dtype: torch.dtype
    convolution: Convolution | None  # None: a linear layer
    bias_shape: list[int] | None
    smoothing: Tensor | None  # of the input; None: 1

    def smoothed(self, x: Tensor) -> Tensor:
        """Return the input, or a gradient to it, multiplied by the smoothing."""
        return smoothed_input(x, self.smoothing, channels_axis(self.convolution))

    def rounded_input(self, x: Tensor) -> Tensor:
        """Return the input smoothed and rounded, in fp32 or more."""
        x = self.smoothed(x)
        if isinstance(self.quantizer, TokenQuantizer):
            return self.quantizer.values(x)
        return x if self.quantizer is None else round_values(x.to(self.quantizer.scale.dtype), self.quantizer)

    def input_gradients(
        self, x: Tensor, up: Tensor, to_scale: bool, to_zero_point: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return gradients to the input and to its scale and zero-point, from those to the rounded input."""
        by_scale = by_zero_point = None
        if isinstance(self.quantizer, Quantizer):  # otherwise nothing is clipped
            dtype = self.quantizer.scale.dtype
            x, rounded = self.smoothed(x).to(dtype), up.to(dtype)
            up, by_scale = round_gradients(x, rounded, self.quantizer, to_scale=to_scale)
            if to_zero_point:
                by_zero_point = zero_point_gradient(rounded, up, self.quantizer)
        return self.smoothed(up), by_scale, by_zero_point

    def weight_quantizer(self, scale: Tensor | None) -> WeightQuantizer | None:
        if scale is None or self.weight_grid is None:
            return None
        return WeightQuantizer(scale, self.weight_grid)


class _Operands(NamedTuple):
    """The layer's input and weight as floating point holds them, and the weight's scales."""

    x: Tensor
    weight: Tensor
    weight_scale: Tensor | None

    def rounded(self, context: _LayerContext) -> tuple[Tensor, Tensor]:
        """Return rounded input and weight in the dtype of products."""
        weight = self.weight
        if quantizer := context.weight_quantizer(self.weight_scale):
            weight = quantizer.values(weight)
        return context.rounded_input(self.x).to(context.product_dtype), weight.to(context.product_dtype)


class _FakeQuantizedLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        context: _LayerContext,
        bias: Tensor | None,
        _scale: Tensor | None,
        _zero_point: Tensor | None,
        *operands: Any,
    ) -> Tensor:
        ctx.save_for_backward(*operands)
        ctx.layer = context
        x, weight = _Operands(*operands).rounded(context)
        if context.convolution is None:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, *context.convolution)

    @staticmethod
    def backward(ctx: Any, up: Tensor) -> tuple[Tensor | None, ...]:
        context: _LayerContext = ctx.layer
        operands = _Operands(*ctx.saved_tensors)
        _, need_bias, *need_quantizer, need_x, need_weight, need_weight_scale = ctx.needs_input_grad
        mask = (need_x or any(need_quantizer), need_weight or need_weight_scale, need_bias)
        to_x, to_weight, to_bias = _layer_gradients(up, *operands.rounded(context), mask, context)
        to_scale = to_zero_point = to_weight_scale = None
        if to_x is not None:
            to_x, to_scale, to_zero_point = context.input_gradients(operands.x, to_x, *need_quantizer)
        weight_quantizer = context.weight_quantizer(operands.weight_scale)
        if to_weight is not None and weight_quantizer is not None:
            to_weight, to_weight_scale = weight_quantizer.gradients(
                operands.weight, to_weight, to_scale=need_weight_scale
            )
        return None, to_bias, to_scale, to_zero_point, to_x, to_weight, to_weight_scale


def _layer_gradients(
    up: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool, bool], context: _LayerContext
) -> tuple[Tensor | None, ...]:
    """Return the floating-point layer's gradients to input, weight and bias, None where the mask is false."""
    if context.convolution is not None:
        stride, padding, dilation, groups = context.convolution
        gradients: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            up, x, weight, context.bias_shape, stride, padding, dilation, False, [0, 0], groups, list(mask)
        )
        return gradients
    flat = up.reshape(-1, up.shape[-1])
    return (
        (flat @ weight).view(x.shape) if mask[0] else None,
        flat.t() @ x.reshape(-1, x.shape[-1]) if mask[1] else None,
        flat.sum(0) if mask[2] else None,
    )
