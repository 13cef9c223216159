"""Inputs of packed layers as rows of int8 codes on CUDA; the twin of runtime/row_codes.py."""

from collections.abc import Sequence

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
    check_channels(x.shape[-1], norm.num_channels)
    write = torch.ops.sdquant.group_norm if torch.compiler.is_compiling() else _group_norm
    numbers: Tensor = write(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
    return Prologue(multiplier=numbers[0], shift=numbers[1], silu=silu)


def _group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
    """Return the multipliers and shifts (2,n,C) fp32 of a group norm of x (n,h,w,C)."""
    numbers = _empty_numbers(x, weight, bias, groups, epsilon)
    n, h, w, channels = x.shape
    if n * h * w:
        blocks = min(kernels.MOST_BLOCKS, -(-h * w // kernels.ROWS))
        sums = torch.empty(n, blocks, 2, channels, device=x.device)
        image = kernels.Image(x, sums, h * w, channels, blocks)
        kernels.group_norm(image, kernels.GroupNorm(weight, bias, epsilon, *numbers), n, groups)
    return numbers


def _empty_numbers(x: Tensor, _: Tensor, __: Tensor, ___: int, ____: float) -> Tensor:
    """Return what `_group_norm` returns, without numbers."""
    return x.new_empty(2, len(x), x.shape[-1], dtype=torch.float32)


torch.library.custom_op("sdquant::group_norm", _group_norm, mutates_args=()).register_fake(_empty_numbers)


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
    tables: tuple[Tensor | None, ...] = (None, None, None)
    if isinstance(quantizer, TableQuantizer):
        tables = quantizer.scale, quantizer.zero, quantizer.row
        if len(quantizer.row) not in (1, n):
            raise RuntimeError(f"a batch of {n} items has {len(quantizer.row)} timesteps")
    tensors = [prologue.multiplier, prologue.shift, smoothing, *tables]
    write = torch.ops.sdquant.codes if torch.compiler.is_compiling() else _written
    planes, scale, zero = write(x, tensors, bits, prologue.epsilon, prologue.gated, prologue.silu)
    shared, high = not isinstance(quantizer, TokenQuantizer), planes[1] if bits > 8 else None
    return Codes(planes[0], high, scale, zero, (n, h, w), channels, _line(channels), shared)


def _written(
    x: Tensor, tensors: Sequence[Tensor | None], bits: int, epsilon: float, gated: bool, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return planes of codes, scales and zero-points; `tensors` are a prologue's, a smoothing and tables."""
    n, h, w, channels = x.shape
    planes, scale, zero = _empty(x, tensors, bits, epsilon, gated, silu)
    multiplier, _, _, *tables = tensors
    if not len(scale):
        return planes, scale, zero
    channels //= 1 + gated
    width, has_items = _next_power_of_two(channels), multiplier is not None and multiplier.dim() == 2
    rows = max(1, PROGRAM // width)
    plan = kernels.Plan(gated, epsilon >= 0, has_items, silu, 2**bits - 1, rows, width)
    each = int(tables[2] is not None and len(tables[2]) > 1)
    numbers = tensors[0], tensors[1], tensors[2]
    values = kernels.Values(x, *numbers, epsilon, n * h * w, h * w, channels)
    low, high = planes[0], planes[1] if bits > 8 else None
    written = kernels.Written(low, high, scale, zero, _line(channels))
    kernels.codes(values, kernels.Tables(tables[0], tables[1], tables[2], each), written, plan)
    return planes, scale, zero


def _empty(
    x: Tensor, _: Sequence[Tensor | None], bits: int, __: float, gated: bool, ___: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_written` returns, without numbers."""
    n, h, w, channels = x.shape
    count, line = n * h * w, _line(channels // (1 + gated))
    planes = x.new_empty(1 + (bits > 8), count * line + SLACK, dtype=torch.int8)
    return planes, x.new_empty(count, dtype=torch.float32), x.new_empty(count, dtype=torch.int32)


torch.library.custom_op("sdquant::codes", _written, mutates_args=()).register_fake(_empty)


def _line(channels: int) -> int:
    return -(-channels // LINE) * LINE


def _next_power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
