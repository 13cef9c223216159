"""Packed layers by kernels of our own: integer products with a scale for each row of the input.

A row is a token of a linear layer or a pixel of a convolution. An input becomes codes once, however many
layers read it; scales that were calibrated are the same for all its rows.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..native import codes as code_kernel
from ..native import products as kernels
from ..quant.layer_function import convolution_of
from ..quant.tokens import TokenQuantizer
from .codes import NIBBLE
from .layers import Packed, PackedConv2d, RowQuantizer

DTYPES = (torch.float32, torch.bfloat16)  # of inputs and outputs
WIDE, LINE = kernels.WIDE, code_kernel.LINE


def available() -> bool:
    """Return whether this machine has the kernels."""
    return kernels.available() and code_kernel.available()


def computes(layer: Packed) -> bool:
    """Return whether the kernels compute a layer: one group, and groups of scales in whole lines."""
    if not available():
        return False
    convolution, inputs = convolution_of(layer), layer.weight_shape[1]
    groups = layer.form.groups(layer.weight_shape)
    return (groups == 1 or inputs // groups % LINE == 0) and (convolution is None or convolution.groups == 1)


class Integer:
    """A layer's computation on codes, summed in int32 where rows and outputs share their scales."""

    def __init__(self, layer: Packed) -> None:
        self.product = Product(layer)
        self._layer, self._is_convolution = layer, isinstance(layer, PackedConv2d)

    def __call__(self, x: Tensor, quantizer: RowQuantizer | TokenQuantizer) -> Tensor:
        """Return the output for an input of the layer, in its dtype."""
        dtype = x.dtype if x.dtype in DTYPES else torch.float32
        rows = x.permute(0, 2, 3, 1) if self._is_convolution else x.reshape(1, -1, 1, x.shape[-1])
        codes = codes_of(rows.to(dtype).contiguous(), quantizer, self._layer.smoothing)
        y = self.product(codes, dtype).to(x.dtype)
        return y.permute(0, 3, 1, 2) if self._is_convolution else y.view(*x.shape[:-1], self.product.outputs)


class Before(NamedTuple):
    """What is done to an input before it is rounded, in this order."""

    gated: bool = False  # the first half of its channels times GELU of the second
    epsilon: float = -1.0  # of a norm over the channels; below zero: there is none
    multiplier: Tensor | None = None  # (C), or (n,C) for each item
    shift: Tensor | None = None
    silu: bool = False


def group_norm(norm: nn.GroupNorm, x: Tensor, *, silu: bool) -> Before:
    """Return a group norm of x (n,h,w,C), and SiLU after it, for `codes_of`."""
    n, h, w, channels = x.shape
    _check_channels(channels, norm.num_channels)
    multiplier, shift = torch.empty(n, channels), torch.empty(n, channels)
    tensors = (norm.weight.float(), norm.bias.float(), multiplier, shift)
    shape = (n, h * w, channels, norm.num_groups)
    addresses = tuple(tensor.data_ptr() for tensor in tensors)
    code_kernel.group_norm(x.data_ptr(), x.dtype is torch.bfloat16, shape, norm.eps, addresses)
    return Before(multiplier=multiplier, shift=shift, silu=silu)


def layer_norm(norm: nn.LayerNorm) -> Before:
    """Return a layer norm over the channels for `codes_of`."""
    return Before(epsilon=norm.eps, multiplier=norm.weight.float(), shift=norm.bias.float())


GATED = Before(gated=True)  # GEGLU, after its projection
PLAIN = Before()


@dataclass(frozen=True)
class Codes:
    """The codes of an input (n,h,w,C), by rows; n sequences of tokens are (n,tokens,1,C)."""

    low: Tensor  # (n h w,line) uint8
    high: Tensor | None  # of codes above 8 bits: their high bytes
    scale: Tensor  # (n h w) or (1) fp32
    zero: Tensor  # as many, int32
    shape: tuple[int, int, int]  # n, h, w
    channels: int

    def argument(self) -> kernels.Input:
        """Return the codes as the kernel is called with them."""
        addresses = map(_address, (self.low, self.high, self.scale, self.zero))
        return kernels.Input(*addresses, len(self.scale) > 1, self.low.shape[1], self.shape)


def codes_of(
    x: Tensor, quantizer: RowQuantizer | TokenQuantizer, smoothing: Tensor | None, before: Before = PLAIN
) -> Codes:
    """Return the codes of an input (n,h,w,C), contiguous, fp32 or bfloat16, smoothed before it is rounded.

    Raises RuntimeError where what comes before has other channels.
    """
    n, h, w, channels = x.shape
    channels //= 1 + before.gated
    for numbers in (before.multiplier, smoothing):
        if numbers is not None:
            _check_channels(channels, numbers.shape[-1])
    count, line = n * h * w, -(-channels // LINE) * LINE
    if isinstance(quantizer, TokenQuantizer):
        top, scale, zero = quantizer.grid.high, torch.empty(count), torch.empty(count, dtype=torch.int32)
    else:
        top = 2**quantizer.bits - 1
        scale, zero = torch.tensor([quantizer.step]), torch.tensor([quantizer.zero], dtype=torch.int32)
    low = torch.empty(count, line, dtype=torch.uint8)
    high = torch.empty_like(low) if top > 255 else None
    tensors = (x, before.multiplier, before.shift, smoothing, low, high, scale, zero)
    each = before.multiplier is not None and before.multiplier.dim() == 2
    shape = (x.dtype is torch.bfloat16, n, h * w, channels, line, each)
    rows = code_kernel.Rows(*map(_address, tensors), *shape, before.gated, before.silu, top, before.epsilon)
    code_kernel.codes(rows, find=isinstance(quantizer, TokenQuantizer))
    return Codes(low, high, scale, zero, (n, h, w), channels)


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

        Raises RuntimeError for codes of other channels.
        """
        _check_channels(codes.channels, self.inputs)
        n, *size = codes.shape
        size = [self._output_size(size[axis], axis) for axis in (0, 1)]
        out = torch.empty(n, *size, self.outputs, dtype=dtype)
        addresses = map(_address, (out, residual, addend))
        output = kernels.Output(*addresses, dtype is torch.bfloat16, tuple(size))
        kernels.product(self._argument, codes.argument(), output)
        return out

    def _output_size(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (size + 2 * self.padding[axis] - reach) // self.stride[axis] + 1


def _check_channels(found: int, expected: int) -> None:
    """Raise RuntimeError, as torch's layers do: the kernels read as many as they are told."""
    if found != expected:
        raise RuntimeError(f"expected an input of {expected} channels, found {found}")


def _by_panel(values: Tensor) -> Tensor:
    """Return values (C_out,k) as (panels,k,WIDE), zeros at the end."""
    padded = F.pad(values, (0, 0, 0, -len(values) % WIDE))
    return padded.view(-1, WIDE, values.shape[1]).transpose(1, 2).contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
