"""Ways to compute a packed layer, and which of them a machine can do.

All give what quant/modules.py specifies, up to the order of float additions. `integer`: products of codes,
summed in integers by oneDNN on a CPU. `dequantized`: packed in memory, each layer's weights turned into
floats when it is called; on any device. `reference`: sums of codes in fp64, which holds them exactly.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import EnvironmentProblem
from ..quant import rounding
from ..quant.grid import Grid
from ..types import Execution
from .codes import quantize
from .layers import LayerKernel, Packed, PackedConv2d, Quantizer, Run

Multiply = Callable[[Tensor, float, Tensor | None, torch.dtype], Tensor]
_STRAIGHT: tuple[str, list[float], str] = ("none", [], "")  # no operation after the product


def reference(layer: Packed) -> Run:
    """Exact sums of integer codes, carried in fp64: what the others are held to."""
    codes = layer.codes().double()
    shape = (-1, 1, 1) if isinstance(layer, PackedConv2d) else (-1,)
    scale = layer.weight_step.double().view(shape)
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.double().view(shape)

    def run(x: Tensor, own: Quantizer) -> Tensor:
        rounded = torch.round(x.float() / _filled(x, own.step)) + own.zero
        shifted = rounded.clamp_(0, 2**own.bits - 1).double() - own.zero
        return (_float_layer(layer, shifted, codes, None) * (own.step * scale) + bias).to(x.dtype)

    return run


def dequantized(layer: Packed) -> Run:
    """Weights in floats for the length of a call; inputs rounded in fp32, as specified."""
    step_shape = (-1, *[1] * (len(layer.weight_shape) - 1))

    def run(x: Tensor, own: Quantizer) -> Tensor:
        weight = (layer.codes() * layer.weight_step.view(step_shape)).to(x.dtype)
        quantizer = rounding.Quantizer(
            _filled(x, own.step), _filled(x, own.zero), Grid(own.bits, signed=False)
        )
        rounded = rounding.round_values(x.float(), quantizer)
        return _float_layer(layer, rounded.to(x.dtype), weight, layer.bias)

    return run


def _filled(x: Tensor, value: float) -> Tensor:
    """One fp32 number, shaped to broadcast against x: dividing by a Python number may round otherwise."""
    return torch.full([1] * x.dim(), value, dtype=torch.float32, device=x.device)


def _float_layer(layer: Packed, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, PackedConv2d):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear(x, weight, bias)


def integer(layer: Packed) -> Run:
    """Products of uint8 and int8 summed in int32 by oneDNN.

    The zero-point's share, s z sum(w), is the same for every output of a channel because the border
    holds zero-points too: it goes into the bias. A code of more than 8 bits is two of 8: so is the product.
    """
    codes = layer.codes()
    is_conv = isinstance(layer, PackedConv2d)
    padding: Any = layer.padding if is_conv else (0, 0)
    multiply = _convolution(layer, codes) if is_conv else _linear(layer, codes)
    sums = codes.flatten(1).sum(1, dtype=torch.int64) * layer.weight_step.double()
    bias = torch.zeros_like(sums) if layer.bias is None else layer.bias.double()

    def run(x: Tensor, own: Quantizer) -> Tensor:
        step, zero, bits = own
        shifted = torch.add(bias, sums, alpha=-step * zero).float()
        low, *high = quantize(x, step, zero, bits, padding)
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
    """Over an input with its border; of 1x1 that steps by one, a linear layer over pixels."""
    if layer.kernel_size == (1, 1) == layer.stride and layer.groups == 1:
        linear = _linear(layer, codes.flatten(1))

        def over_pixels(x: Tensor, step: float, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
            return linear(x.permute(0, 2, 3, 1), step, bias, dtype).permute(0, 3, 1, 2)

        return over_pixels
    scale, zeros = layer.weight_step, torch.zeros(len(codes), dtype=torch.int32)
    moves = (list(layer.stride), [0, 0], list(layer.dilation), layer.groups)
    ready: dict[torch.Size, Tensor] = {}

    def multiply(x: Tensor, step: float, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        # oneDNN lays out weights for one size of picture; at another it would do so again in every call
        if x.shape[1:] not in ready:
            ready.clear()
            ready[x.shape[1:]] = torch.ops.onednn.qconv_prepack(
                layer.codes(), scale, 1.0, 0, *moves, list(x.shape)
            )
        y = torch.ops.onednn.qconv2d_pointwise(
            x, step, 0, ready[x.shape[1:]], scale, zeros, bias, *moves, 1.0, 0, _supported(dtype), *_STRAIGHT
        )
        return y.to(dtype)

    return multiply


def _supported(dtype: torch.dtype) -> torch.dtype:
    """What oneDNN writes; fp16 it does not, or ten thousand times slower."""
    return dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32


@cache
def sums_exactly() -> bool:
    """Whether oneDNN's products are right here at the largest codes.

    A CPU without VNNI adds pairs of products in 16 bits, which saturate.
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


def choose(device: torch.device, wanted: Execution | None = None) -> Execution:
    """The engine for a device: integers where they are computed right, else dequantized weights.

    Raises EnvironmentProblem for integers where there are none.
    """
    able = device.type == "cpu" and sums_exactly()
    if wanted is Execution.INTEGER and not able:
        raise EnvironmentProblem(
            f"--engine integer: {device} has no integer products that oneDNN computes without saturation "
            f"(on a CPU: AVX512-VNNI, AVX-VNNI or AMX); use --engine auto"
        )
    return wanted or (Execution.INTEGER if able else Execution.DEQUANTIZED)


def engine_for(wanted: Execution | None) -> LayerKernel:
    """The engine of a name; None: what suits the device on which a layer is when it is first called."""

    def engine(layer: Packed) -> Run:
        return ENGINES[choose(layer.weight.device, wanted)](layer)

    return engine
