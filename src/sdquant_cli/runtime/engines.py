"""The engines that compute packed layers, and the choice of one for a device.

All compute what quant/modules.py specifies, up to the order of floating-point additions. `integer`
multiplies codes and sums them in int32, with oneDNN on a CPU. `dequantized` converts a layer's packed
weights to floating point at each call, on any device. `reference` sums in fp64.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import EnvironmentProblem, UsageProblem
from ..quant.format import NumberFormat
from ..quant.tokens import TokenQuantizer
from ..quant.weights import dequantized_weight
from ..types import Execution
from .codes import quantize
from .layers import LayerKernel, Packed, PackedConv2d, RowQuantizer, Run

Multiply = Callable[[Tensor, float, Tensor | None, torch.dtype], Tensor]
_STRAIGHT: tuple[str, list[float], str] = ("none", [], "")  # oneDNN: no operation after the product


def reference(layer: Packed) -> Run:
    """Compute rounded values in fp64; the other engines are tested against it."""
    weight = dequantized_weight(layer.codes(), layer.weight_step.double())
    bias = None if layer.bias is None else layer.bias.double()

    def run(x: Tensor, quantizer: RowQuantizer | TokenQuantizer) -> Tensor:
        rounded = quantizer.values(layer.smoothed(x.float()))
        return _float_layer(layer, rounded.double(), weight, bias).to(x.dtype)

    return run


def dequantized(layer: Packed) -> Run:
    """Compute with floating-point weights that live for one call; inputs are rounded in fp32."""

    def run(x: Tensor, quantizer: RowQuantizer | TokenQuantizer) -> Tensor:
        weight = dequantized_weight(layer.codes(), layer.weight_step.float()).to(x.dtype)
        rounded = quantizer.values(layer.smoothed(x))
        return _float_layer(layer, rounded.to(x.dtype), weight, layer.bias)

    return run


def _float_layer(layer: Packed, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, PackedConv2d):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear(x, weight, bias)


def integer(layer: Packed) -> Run:
    """Compute with oneDNN's products of uint8 and int8, summed in int32.

    The zero-point's term, s z sum(w), is the same for every output of a channel, since the border has the
    zero-point's code too: it is added to the bias. A code above 8 bits is split into two bytes, and the
    product is the sum of two.
    """
    codes = layer.codes()
    is_conv = isinstance(layer, PackedConv2d)
    padding: Any = layer.padding if is_conv else (0, 0)
    multiply = _convolution(layer, codes) if is_conv else _linear(layer, codes)
    sums = codes.flatten(1).sum(1, dtype=torch.int64) * layer.weight_step.double()
    bias = torch.zeros_like(sums) if layer.bias is None else layer.bias.double()

    def run(x: Tensor, quantizer: RowQuantizer | TokenQuantizer) -> Tensor:
        assert isinstance(quantizer, RowQuantizer)
        step, zero, bits = quantizer
        shifted = torch.add(bias, sums, alpha=-step * zero).float()
        low, *high = quantize(layer.smoothed(x), step, zero, bits, padding)
        if not high:
            return multiply(low, step, shifted, x.dtype)
        y = multiply(high[0], 256 * step, None, torch.float32)
        return y.add_(multiply(low, step, shifted, torch.float32)).to(x.dtype)

    return run


def _linear(layer: Packed, codes: Tensor) -> Multiply:
    weights = torch.ops.onednn.qlinear_prepack(codes, None)
    scale, zeros = layer.weight_step, torch.zeros(len(codes), dtype=torch.int32)

    def multiply(x: Tensor, step: float, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        y = torch.ops.onednn.qlinear_pointwise(
            x, step, 0, weights, scale, zeros, bias, 1.0, 0, _supported(dtype), *_STRAIGHT
        )
        return y.to(dtype)

    return multiply


def _convolution(layer: Any, codes: Tensor) -> Multiply:
    """Return the product for inputs with their border; 1x1 with stride 1 is a linear layer over pixels."""
    if layer.kernel_size == (1, 1) == layer.stride and layer.groups == 1:
        linear = _linear(layer, codes.flatten(1))

        def over_pixels(x: Tensor, step: float, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
            return linear(x.permute(0, 2, 3, 1), step, bias, dtype).permute(0, 3, 1, 2)

        return over_pixels
    scale, zeros = layer.weight_step, torch.zeros(len(codes), dtype=torch.int32)
    moves = (list(layer.stride), [0, 0], list(layer.dilation), layer.groups)
    packed: dict[torch.Size, Tensor] = {}

    def multiply(x: Tensor, step: float, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        # oneDNN packs weights for one image size; for another it would pack them again in every call
        if x.shape[1:] not in packed:
            packed.clear()
            packed[x.shape[1:]] = torch.ops.onednn.qconv_prepack(
                layer.codes(), scale, 1.0, 0, *moves, list(x.shape)
            )
        y = torch.ops.onednn.qconv2d_pointwise(
            x,
            step,
            0,
            packed[x.shape[1:]],
            scale,
            zeros,
            bias,
            *moves,
            1.0,
            0,
            _supported(dtype),
            *_STRAIGHT,
        )
        return y.to(dtype)

    return multiply


def _supported(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of oneDNN's output; fp16 is unsupported, or ten thousand times slower."""
    return dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32


@cache
def sums_exactly() -> bool:
    """Tell if oneDNN's products of the largest codes are exact on this CPU.

    A CPU without VNNI adds pairs of products in 16 bits, which saturates.
    """
    try:
        weights = torch.ops.onednn.qlinear_prepack(torch.full((1, 64), 127, dtype=torch.int8), None)
        x = torch.full((1, 64), 255, dtype=torch.uint8)
        one, zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)
        y = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 0, weights, one, zero, None, 1.0, 0, torch.float32, *_STRAIGHT
        )
    except (AttributeError, RuntimeError):
        return False
    return float(y) == 64 * 127 * 255


ENGINES: dict[Execution, LayerKernel] = {Execution.INTEGER: integer, Execution.DEQUANTIZED: dequantized}


def choose(device: torch.device, form: NumberFormat, requested: Execution | None = None) -> Execution:
    """Return the requested engine, or the default one: integer where it is exact, else dequantized.

    Raises EnvironmentProblem if the integer engine is requested where it is not exact, and UsageProblem
    where it does not compute the format.
    """
    exact = device.type == "cpu" and sums_exactly()
    if requested is Execution.INTEGER and not form.has_integer_products:
        reason = "--activations token" if form.per_token else f"--group-size {form.group_size}"
        raise UsageProblem(
            f"--engine integer: does not compute networks calibrated with {reason}; use --engine dequantized"
        )
    if requested is Execution.INTEGER and not exact:
        raise EnvironmentProblem(
            f"--engine integer: oneDNN's integer products saturate on this {device} "
            f"(a CPU with AVX512-VNNI, AVX-VNNI or AMX is needed); use --engine auto"
        )
    can = exact and form.has_integer_products
    return requested or (Execution.INTEGER if can else Execution.DEQUANTIZED)


def engine_for(requested: Execution | None) -> LayerKernel:
    """Return the requested engine, or with None one that chooses by a layer's device at its first call."""

    def kernel(layer: Packed) -> Run:
        return ENGINES[choose(layer.weight.device, layer.form, requested)](layer)

    return kernel
