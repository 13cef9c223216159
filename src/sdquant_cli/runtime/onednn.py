"""Integer products of oneDNN, for layers whose inputs have one scale, on CPUs that compute them exactly.

oneDNN picks the instructions: AVX512-VNNI, AVX-VNNI or AMX.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..quant.format import NumberFormat
from .codes import quantize
from .layers import AnyQuantizer, Packed, PackedConv2d, RowQuantizer, Run

Multiply = Callable[[Tensor, float, Tensor | None, torch.dtype], Tensor]
_STRAIGHT: tuple[str, list[float], str] = ("none", [], "")  # oneDNN: no operation after the product


def computes(form: NumberFormat) -> bool:
    """Return whether one product is a layer: one scale for its input, and one for each output."""
    return not form.per_token and form.group_size is None and sums_exactly()


def integer(layer: Packed) -> Run:
    """Compute with products of uint8 and int8, summed in int32.

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

    def run(x: Tensor, quantizer: AnyQuantizer) -> Tensor:
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
