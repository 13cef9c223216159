"""The engines that compute packed layers, and the choice of one for a device.

All compute what quant/modules.py specifies, up to the order of floating-point additions. `integer`
multiplies codes and sums them in int32, on a CPU or on CUDA. `dequantized` converts a layer's packed weights
to floating point at each call, on any device. `reference` sums in fp64.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import EnvironmentProblem
from ..native import cuda
from ..native.cuda import support
from ..quant.format import NumberFormat
from ..quant.weights import dequantized_weight
from ..types import Execution
from . import kernels, onednn, products
from .layers import AnyQuantizer, LayerKernel, Packed, PackedConv2d, Run


def reference(layer: Packed) -> Run:
    """Compute rounded values in fp64; the other engines are tested against it."""
    weight = dequantized_weight(layer.codes(), layer.weight_step.double())
    bias = None if layer.bias is None else layer.bias.double()

    def run(x: Tensor, quantizer: AnyQuantizer) -> Tensor:
        rounded = quantizer.values(layer.smoothed(x.float()))
        return _float_layer(layer, rounded.double(), weight, bias).to(x.dtype)

    return run


def dequantized(layer: Packed) -> Run:
    """Compute with floating-point weights that live for one call; inputs are rounded in fp32."""

    def run(x: Tensor, quantizer: AnyQuantizer) -> Tensor:
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
    if not cuda.serves(layer.weight.device.type) and onednn.computes(layer.form):
        return onednn.integer(layer)
    return kernels.Integer(layer) if kernels.computes(layer) else dequantized(layer)


ENGINES: dict[Execution, LayerKernel] = {Execution.INTEGER: integer, Execution.DEQUANTIZED: dequantized}


def choose(device: torch.device, form: NumberFormat, requested: Execution | None = None) -> Execution:
    """Return the requested engine, or the default one: on a CPU integer where it is exact, else dequantized.

    The kernels for CUDA have run on no GPU yet, so there integers are computed where they are requested.
    Raises EnvironmentProblem if the integer engine is requested where nothing computes it.
    """
    if requested is Execution.DEQUANTIZED or (requested is None and device.type == "cuda"):
        return Execution.DEQUANTIZED
    reason = _missing_for_integers(device, form)
    if reason is None:
        return Execution.INTEGER
    if requested is Execution.INTEGER:
        raise EnvironmentProblem(f"--engine integer: {reason}; use --engine auto")
    return Execution.DEQUANTIZED


def _missing_for_integers(device: torch.device, form: NumberFormat) -> str | None:
    """Return what keeps a device from computing with integers, None if nothing does."""
    if device.type == "cuda":
        return support.problem(device)
    if device.type != "cpu":
        return f"needs a CPU or CUDA, found {device}"
    if products.available() or onednn.computes(form):
        return None
    return (
        "needs a C compiler (CC, cc, gcc or clang), or calibrated activations and a CPU with AVX512-VNNI, "
        "AVX-VNNI or AMX"
    )


def engine_for(requested: Execution | None) -> LayerKernel:
    """Return the requested engine, or with None one that chooses by a layer's device at its first call."""

    def kernel(layer: Packed) -> Run:
        return ENGINES[choose(layer.weight.device, layer.form, requested)](layer)

    return kernel
