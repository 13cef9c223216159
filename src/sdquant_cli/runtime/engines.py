"""The engines that compute packed layers, and the choice of one for a device.

All compute what quant/modules.py specifies, up to the order of floating-point additions. `integer`
multiplies codes and sums them in int32, on a CPU. `dequantized` converts a layer's packed weights to floating
point at each call, on any device. `reference` sums in fp64.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import EnvironmentProblem
from ..quant.format import NumberFormat
from ..quant.tokens import TokenQuantizer
from ..quant.weights import dequantized_weight
from ..types import Execution
from . import onednn, products
from .layers import LayerKernel, Packed, PackedConv2d, RowQuantizer, Run


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
    """Compute with products of codes, by oneDNN or our own kernels; as `dequantized` where neither does."""
    if onednn.computes(layer.form):
        return onednn.integer(layer)
    return products.Integer(layer) if products.computes(layer) else dequantized(layer)


ENGINES: dict[Execution, LayerKernel] = {Execution.INTEGER: integer, Execution.DEQUANTIZED: dequantized}


def choose(device: torch.device, form: NumberFormat, requested: Execution | None = None) -> Execution:
    """Return the requested engine, or the default one: integer where it is exact, else dequantized.

    Raises EnvironmentProblem if the integer engine is requested where nothing computes it.
    """
    if requested is Execution.DEQUANTIZED or device.type != "cpu":
        if requested is Execution.INTEGER:
            raise EnvironmentProblem(f"--engine integer: needs a CPU, found {device}; use --engine auto")
        return Execution.DEQUANTIZED
    if products.available() or onednn.computes(form):
        return Execution.INTEGER
    if requested is Execution.INTEGER:
        raise EnvironmentProblem(
            "--engine integer: needs a C compiler (CC, cc, gcc or clang), or calibrated activations and a "
            "CPU with AVX512-VNNI, AVX-VNNI or AMX; use --engine auto"
        )
    return Execution.DEQUANTIZED


def engine_for(requested: Execution | None) -> LayerKernel:
    """Return the requested engine, or with None one that chooses by a layer's device at its first call."""

    def kernel(layer: Packed) -> Run:
        return ENGINES[choose(layer.weight.device, layer.form, requested)](layer)

    return kernel
