"""Inputs of packed layers as rows of codes, with the norms and activations that come before them.

A row is a token of a linear layer or a pixel of a convolution. An input becomes codes once, however many
layers read it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..native import codes as kernels
from ..native.products import Input
from ..quant.tokens import TokenQuantizer
from .layers import AnyQuantizer, RowQuantizer

DTYPES = (torch.float32, torch.bfloat16)  # of inputs, and of outputs
LINE = kernels.LINE


class Prologue(NamedTuple):
    """The operations on an input before it is rounded, in this order."""

    gated: bool = False  # the first half of its channels times GELU of the second
    epsilon: float = -1.0  # of a norm over the channels; below zero: there is none
    multiplier: Tensor | None = None  # (C), or (n,C) for each item
    shift: Tensor | None = None
    silu: bool = False


def group_norm(norm: nn.GroupNorm, x: Tensor, *, silu: bool) -> Prologue:
    """Return a group norm of x (n,h,w,C), and SiLU after it, for `codes_of`."""
    n, h, w, channels = x.shape
    check_channels(channels, norm.num_channels)
    multiplier, shift = torch.empty(n, channels), torch.empty(n, channels)
    tensors = (norm.weight.float(), norm.bias.float(), multiplier, shift)
    shape = (n, h * w, channels, norm.num_groups)
    addresses = tuple(tensor.data_ptr() for tensor in tensors)
    kernels.group_norm(x.data_ptr(), x.dtype is torch.bfloat16, shape, norm.eps, addresses)
    return Prologue(multiplier=multiplier, shift=shift, silu=silu)


def layer_norm(norm: nn.LayerNorm) -> Prologue:
    """Return a layer norm over the channels for `codes_of`."""
    return Prologue(epsilon=norm.eps, multiplier=norm.weight.float(), shift=norm.bias.float())


GATED = Prologue(gated=True)  # GEGLU, after its projection
PLAIN = Prologue()


@dataclass(frozen=True)
class Codes:
    """The codes of an input (n,h,w,C), by rows; n sequences of tokens are (n,tokens,1,C)."""

    low: Tensor  # (n h w,line) uint8; on CUDA int8, codes less 128
    high: Tensor | None  # of codes above 8 bits: their high bytes
    scale: Tensor  # (n h w) fp32
    zero: Tensor  # as many, int32
    shape: tuple[int, int, int]  # n, h, w
    channels: int
    line: int  # bytes of a row
    shared: bool  # whether the rows of an item have one scale and zero-point

    def argument(self) -> Input:
        """Return the codes as the kernel is called with them."""
        addresses = map(address, (self.low, self.high, self.scale, self.zero))
        return Input(*addresses, self.line, self.shape)


def codes_of(
    x: Tensor, quantizer: AnyQuantizer, smoothing: Tensor | None, prologue: Prologue = PLAIN
) -> Codes:
    """Return the codes of an input (n,h,w,C), contiguous, fp32 or bfloat16, smoothed before it is rounded.

    Raises RuntimeError where the norm or the smoothing has other channels.
    """
    n, h, w, channels = x.shape
    channels //= 1 + prologue.gated
    check_prologue(prologue, smoothing, channels)
    count, line = n * h * w, -(-channels // LINE) * LINE
    bits = quantizer.grid.bits if isinstance(quantizer, TokenQuantizer) else quantizer.bits
    scale, zero = torch.empty(count), torch.empty(count, dtype=torch.int32)
    low = torch.empty(count, line, dtype=torch.uint8)
    high = torch.empty_like(low) if bits > 8 else None
    tensors = (x, prologue.multiplier, prologue.shift, smoothing, low, high, scale, zero)
    each = prologue.multiplier is not None and prologue.multiplier.dim() == 2
    shape = (x.dtype is torch.bfloat16, n, h * w, channels, line, each)
    rows = kernels.Rows(*map(address, tensors), *shape, prologue.gated, prologue.silu)
    rows.top, rows.epsilon = 2**bits - 1, prologue.epsilon
    shared = isinstance(quantizer, RowQuantizer)
    if isinstance(quantizer, RowQuantizer):
        kernels.codes(rows, quantizer.step, quantizer.zero)
    else:
        kernels.codes(rows)
    return Codes(low, high, scale, zero, (n, h, w), channels, line, shared)


def check_prologue(prologue: Prologue, smoothing: Tensor | None, channels: int) -> None:
    """Raise RuntimeError where the norm or the smoothing has other channels."""
    for numbers in (prologue.multiplier, smoothing):
        if numbers is not None:
            check_channels(channels, numbers.shape[-1])


def check_channels(found: int, expected: int) -> None:
    """Raise RuntimeError, as torch's layers do: the kernels read as many as they are told."""
    if found != expected:
        raise RuntimeError(f"expected an input of {expected} channels, found {found}")


def address(tensor: Tensor | None) -> int | None:
    """Return where a tensor lies in memory; it must live until the kernel is done."""
    return None if tensor is None else tensor.data_ptr()
