"""Packed layers on a CPU, by kernels of our own: integer products with a scale for each row of the input."""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..native import codes as code_kernel
from ..native import products as kernels
from ..quant.layer_function import convolution_of
from .codes import NIBBLE
from .layers import Packed
from .row_codes import LINE, Codes, address, check_channels

WIDE = kernels.WIDE


def available() -> bool:
    """Return whether this machine has the kernels."""
    return kernels.available() and code_kernel.available()


def computes(layer: Packed) -> bool:
    """Return whether the kernels compute a layer.

    Groups of scales have whole lines of codes; a convolution has one group, and a kernel that is not huge.
    """
    convolution, (_, inputs, *kernel) = convolution_of(layer), layer.weight_shape
    groups = layer.form.groups(layer.weight_shape)
    fits = groups == 1 or inputs // groups % LINE == 0
    if convolution is not None:
        fits = fits and convolution.groups == 1 and prod(kernel) <= kernels.MOST_TAPS
    return fits and available()


class Product:
    """A layer on codes: its weight as the kernels read it, laid out when this is made."""

    def __init__(self, layer: Packed) -> None:
        self.outputs, self.inputs, *kernel = layer.weight_shape
        convolution = convolution_of(layer)
        self.kernel = kernel or [1, 1]
        moves: Any = ((1, 1), (0, 0), (1, 1)) if convolution is None else convolution[:3]
        self.stride, self.padding, self.dilation = moves
        groups, bits = layer.form.groups(layer.weight_shape), 4 if layer.bits.weights <= NIBBLE else 8
        panels, taps = -(-self.outputs // WIDE), self.kernel[0] * self.kernel[1]
        segments = groups * -(-(self.inputs // groups) // kernels.segment_channels())
        tap_bytes = -(-self.inputs // LINE) * LINE * WIDE * bits // 8
        bias = torch.zeros(self.outputs) if layer.bias is None else layer.bias.detach().float()
        self._held = (
            torch.zeros(panels, taps, tap_bytes, dtype=torch.uint8),
            torch.zeros(panels, taps, segments, WIDE, dtype=torch.int32),  # sums of codes
            _by_panel(layer.weight_step.float().view(self.outputs, groups)),
            _by_panel(bias[:, None]),
        )
        addresses = [tensor.data_ptr() for tensor in self._held]
        fields = (self.inputs, self.outputs, groups, bits, tuple(self.kernel), *moves)
        self._argument = kernels.Layer(*addresses, *fields)
        codes = layer.weight.data.contiguous()  # a copy if the network is held channels last
        kernels.lay_out(self._argument, codes.data_ptr(), *addresses[:2])

    def __call__(
        self, codes: Codes, dtype: torch.dtype, residual: Tensor | None = None, addend: Tensor | None = None
    ) -> Tensor:
        """Return the output (n,h',w',C_out), with a residual like it and `addend` (n,C_out) added.

        Raises RuntimeError for codes of other channels, and for an image that is smaller than the kernel.
        """
        check_channels(codes.channels, self.inputs)
        n, *size = codes.shape
        size = [self._output_size(size[axis], axis) for axis in (0, 1)]
        out = torch.empty(n, *size, self.outputs, dtype=dtype)
        addresses = map(address, (out, residual, addend))
        output = kernels.Output(*addresses, dtype is torch.bfloat16, tuple(size))
        kernels.product(self._argument, codes.argument(), output)
        return out

    def _output_size(self, size: int, axis: int) -> int:
        room = size + 2 * self.padding[axis] - self.dilation[axis] * (self.kernel[axis] - 1) - 1
        if room < 0:
            raise RuntimeError(f"an image of {size} pixels is smaller than the kernel, with its border")
        return room // self.stride[axis] + 1


def _by_panel(values: Tensor) -> Tensor:
    """Return values (C_out,k) as (panels,k,WIDE), zeros at the end."""
    padded = F.pad(values, (0, 0, 0, -len(values) % WIDE))
    return padded.view(-1, WIDE, values.shape[1]).transpose(1, 2).contiguous()
