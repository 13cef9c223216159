"""Inputs of packed layers as rows of int8 codes on CUDA; the twin of runtime/row_codes.py."""

import torch
from torch import Tensor, nn

from ...native.cuda import codes as kernels
from ...quant.tokens import TokenQuantizer
from ..layers import AnyQuantizer, TableQuantizer
from ..row_codes import PLAIN, Codes, Prologue, check_channels, check_prologue

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of inputs, and of outputs
LINE = 16  # bytes that a row of codes takes a multiple of
SLACK = 128  # codes that the product reads after the last row, and multiplies with zero
PROGRAM = 2048  # values that a program takes, or a row


def group_norm(norm: nn.GroupNorm, x: Tensor, *, silu: bool) -> Prologue:
    """Return a group norm of x (n,h,w,C), and SiLU after it, for `codes_of`."""
    n, h, w, channels = x.shape
    check_channels(channels, norm.num_channels)
    multiplier, shift = x.new_empty(2, n, channels, dtype=torch.float32)
    if n * h * w:
        blocks = min(kernels.MOST_BLOCKS, -(-h * w // kernels.ROWS))
        sums = torch.empty(n, blocks, 2, channels, device=x.device)
        image = kernels.Image(x, sums, h * w, channels, blocks)
        numbers = kernels.GroupNorm(norm.weight, norm.bias, norm.eps, multiplier, shift)
        kernels.group_norm(image, numbers, n, norm.num_groups)
    return Prologue(multiplier=multiplier, shift=shift, silu=silu)


def layer_norm(norm: nn.LayerNorm) -> Prologue:
    """Return a layer norm over the channels for `codes_of`."""
    return Prologue(epsilon=norm.eps, multiplier=norm.weight, shift=norm.bias)


def codes_of(
    x: Tensor, quantizer: AnyQuantizer, smoothing: Tensor | None, prologue: Prologue = PLAIN
) -> Codes:
    """Return the codes of an input (n,h,w,C), contiguous, of `DTYPES`, smoothed before it is rounded.

    Raises RuntimeError where the norm or the smoothing has other channels.
    """
    n, h, w, channels = x.shape
    channels //= 1 + prologue.gated
    check_prologue(prologue, smoothing, channels)
    bits = quantizer.grid.bits if isinstance(quantizer, TokenQuantizer) else quantizer.bits
    count, line = n * h * w, -(-channels // LINE) * LINE
    planes = x.new_empty(1 + (bits > 8), count * line + SLACK, dtype=torch.int8)
    scale, zero = x.new_empty(count, dtype=torch.float32), x.new_empty(count, dtype=torch.int32)
    low, high = planes[0], planes[1] if bits > 8 else None
    if count:
        width = _next_power_of_two(channels)
        has_items = prologue.multiplier is not None and prologue.multiplier.dim() == 2
        plan = kernels.Plan(
            prologue.gated,
            prologue.epsilon >= 0,
            has_items,
            prologue.silu,
            2**bits - 1,
            max(1, PROGRAM // width),
            width,
        )
        numbers = (prologue.multiplier, prologue.shift, smoothing)
        values = kernels.Values(x, *numbers, prologue.epsilon, count, h * w, channels)
        written = kernels.Written(low, high, scale, zero, line)
        kernels.codes(values, _tables(quantizer, n), written, plan)
    shared = not isinstance(quantizer, TokenQuantizer)
    return Codes(low, high, scale, zero, (n, h, w), channels, line, shared)


def _tables(quantizer: AnyQuantizer, items: int) -> kernels.Tables:
    if isinstance(quantizer, TokenQuantizer):
        return kernels.Tables(None, None, None, 0)
    assert isinstance(quantizer, TableQuantizer)
    if len(quantizer.row) not in (1, items):
        raise RuntimeError(f"a batch of {items} items has {len(quantizer.row)} timesteps")
    return kernels.Tables(quantizer.scale, quantizer.zero, quantizer.row, int(len(quantizer.row) > 1))


def _next_power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
