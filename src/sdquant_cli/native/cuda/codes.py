"""Rows of activations to codes, with norms and activations before them; what native/codes.c does on a CPU.

On the way, in this order, each where it is asked for: a row becomes the product of its first half and GELU of
its second; it is normalized over its channels; it is multiplied and shifted channel by channel, by numbers of
its item or of all; SiLU; and its channels are smoothed. Then a scale and a zero-point are found from its
values, or read from the tables of a timestep, and its codes are written less 128, as int8. The arithmetic of
rounding is that of quant/tokens.py: divisions are exact, and halves go to the even code.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from .support import active


class Values(NamedTuple):
    """Rows of activations and what is done to them; tensors are None where nothing is."""

    x: object  # (rows,channels), or (rows,2 channels) where it is gated
    multiplier: object  # (items,channels) or (channels) fp32
    shift: object
    smoothing: object  # (channels) fp32
    epsilon: float  # of a norm over a row
    rows: int
    of_item: int  # rows of an item
    channels: int


class Tables(NamedTuple):
    """Scales and zero-points that are read, one for each timestep."""

    scale: object  # (timesteps) fp32, or None: they are found for each row
    zero: object  # as many, int32
    row: object  # (items) or (1) int64: the timestep of an item
    each: int  # 1: an item has its own timestep; 0: all have the same


class Written(NamedTuple):
    """Where codes go."""

    low: object  # (rows,line) int8: codes less 128
    high: object  # the same of their high bytes, or None
    scale: object  # (rows) fp32
    zero: object  # (rows) int32
    line: int


class Plan(NamedTuple):
    """All that a kernel is compiled for."""

    gated: bool
    normed: bool
    each: bool  # whether multipliers are those of an item
    silu: bool
    top: int  # the largest code
    rows: int  # of a program
    channels: int  # of a row, to the next power of two


HALF = 12582912.0  # 1.5 * 2^23: numbers between -2^22 and 2^22 that are added to it are rounded to integers
FAR = 1048576.0  # 2^20, beyond any code
TINY = 1e-8  # the smallest scale, as quant/grid.py has it
CHANNELS, ROWS = 64, 32  # of a program that sums for a group norm, and rows that it reads at once
OPTIONS = {"enable_fp_fusion": False}  # multiplications and additions are rounded as they are written
MOST_BLOCKS = 64  # of an item, whose sums a group norm adds
_HALF, _FAR, _TINY = tl.constexpr(HALF), tl.constexpr(FAR), tl.constexpr(TINY)


@triton.jit
def _rounded(x):
    """Return x rounded to the nearest integer, of two the even one; what is far beyond codes stays so."""
    return (tl.minimum(tl.maximum(x, -_FAR), _FAR) + _HALF) - _HALF


@triton.jit
def _normalized(x, is_channel, channels, epsilon):
    mean = tl.sum(x, 1) / channels
    centred = tl.where(is_channel, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / channels
    return centred * (1.0 / tl.sqrt(variance + epsilon))[:, None]


@triton.jit
def _values(values, row, channel, plan: tl.constexpr):
    """Return rows as they are before they are rounded, zeros after their channels."""
    is_channel = (channel < values.channels)[None, :]
    place = row.to(tl.int64)[:, None] * (values.channels * (1 + plan.gated)) + channel[None, :]
    x = tl.load(values.x + place, mask=is_channel, other=0.0).to(tl.float32)
    if plan.gated:
        gate = tl.load(values.x + place + values.channels, mask=is_channel, other=0.0).to(tl.float32)
        x *= 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    if plan.normed:
        x = _normalized(x, is_channel, values.channels, values.epsilon)
    if values.multiplier is not None:
        item = row // values.of_item * values.channels if plan.each else row * 0
        numbers = item[:, None] + channel[None, :]
        multiplier = tl.load(values.multiplier + numbers, mask=is_channel, other=0.0)
        x = x * multiplier + tl.load(values.shift + numbers, mask=is_channel, other=0.0)
    if plan.silu:
        x = x / (1.0 + tl.exp(tl.minimum(-x, 88.0)))
    if values.smoothing is not None:
        x *= tl.load(values.smoothing + channel, mask=channel < values.channels, other=0.0)[None, :]
    return x


@triton.jit
def _affine(x, top):
    """Return the scale and the zero-point of each row; a scale that is no number where a value is none."""
    low, high = tl.minimum(tl.min(x, 1), 0.0), tl.maximum(tl.max(x, 1), 0.0)
    scale = tl.maximum(tl.div_rn(high - low, top), _TINY)
    zero = _rounded(0.0 - tl.div_rn(low, scale))
    return scale, tl.minimum(tl.maximum(zero, 0.0), top)


@triton.jit
def _codes(values, tables, written, plan: tl.constexpr):
    row = tl.program_id(0) * plan.rows + tl.arange(0, plan.rows)
    channel = tl.arange(0, plan.channels)
    is_row = row < values.rows
    row = tl.minimum(row, values.rows - 1)
    x = _values(values, row, channel, plan)
    missing = tl.max((x != x).to(tl.int32), 1) > 0
    top = plan.top * 1.0
    if tables.scale is None:
        scale, zero = _affine(x, top)
    else:
        timestep = tl.load(tables.row + row // values.of_item * tables.each)
        scale = tl.load(tables.scale + timestep)
        zero = tl.load(tables.zero + timestep).to(tl.float32)
    tl.store(written.scale + row, tl.where(missing, float("nan"), scale), mask=is_row)
    tl.store(written.zero + row, zero.to(tl.int32), mask=is_row)
    code = _rounded(tl.div_rn(x, scale[:, None])) + zero[:, None]
    code = tl.minimum(tl.maximum(code, 0.0), top).to(tl.int32)
    place = row.to(tl.int64)[:, None] * written.line + channel[None, :]
    mask = is_row[:, None] & (channel < values.channels)[None, :]
    tl.store(written.low + place, ((code & 255) - 128).to(tl.int8), mask=mask)
    if written.high is not None:
        tl.store(written.high + place, ((code >> 8) - 128).to(tl.int8), mask=mask)


def codes(values: Values, tables: Tables, written: Written, plan: Plan) -> object:
    """Write the codes of all rows, and each row's scale and zero-point; returns what Triton does."""
    grid = (-(-values.rows // plan.rows),)
    warps = 8 if plan.rows * plan.channels > 4096 else 4
    with active(written.low):
        return _codes[grid](values, tables, written, plan, num_warps=warps, **OPTIONS)


class Image(NamedTuple):
    """Items of pixels that a group norm normalizes."""

    x: object  # (items,rows,channels)
    sums: object  # (items,blocks,2,channels) fp32: of differences to the first row, and their squares
    rows: int  # of an item
    channels: int
    blocks: int  # of an item's rows


class GroupNorm(NamedTuple):
    """A group norm, and where the numbers go that it multiplies and shifts with."""

    weight: object  # (channels) fp32
    bias: object
    epsilon: float
    multiplier: object  # (items,channels) fp32
    shift: object


@triton.jit
def _group_sums(image: Image, at_once: tl.constexpr, wide: tl.constexpr):
    item, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * wide + tl.arange(0, wide)
    is_channel = channel < image.channels
    first = image.x + item * image.rows * image.channels + channel
    origin = tl.load(first, mask=is_channel, other=0.0).to(tl.float32)
    total = tl.zeros((wide,), tl.float32)
    squares = tl.zeros((wide,), tl.float32)
    span = tl.cdiv(image.rows, image.blocks)
    for start in range(0, span, at_once):
        within = start + tl.arange(0, at_once)
        row = block * span + within
        mask = ((within < span) & (row < image.rows))[:, None] & is_channel[None, :]
        x = tl.load(first[None, :] + row[:, None] * image.channels, mask=mask, other=0.0).to(tl.float32)
        difference = tl.where(mask, x - origin[None, :], 0.0)
        total += tl.sum(difference, 0)
        squares += tl.sum(difference * difference, 0)
    place = image.sums + (item * image.blocks + block) * 2 * image.channels + channel
    tl.store(place, total, mask=is_channel)
    tl.store(place + image.channels, squares, mask=is_channel)


@triton.jit
def _group_numbers(image: Image, norm: GroupNorm, size, blocks: tl.constexpr, width: tl.constexpr):
    item, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    within = tl.arange(0, width)
    is_channel = within < size
    channel = group * size + within
    block = tl.arange(0, blocks)
    place = image.sums + (item * image.blocks + block)[:, None] * 2 * image.channels + channel[None, :]
    mask = (block < image.blocks)[:, None] & is_channel[None, :]
    total = tl.sum(tl.load(place, mask=mask, other=0.0), 0)
    squares = tl.sum(tl.load(place + image.channels, mask=mask, other=0.0), 0)
    origin = tl.load(image.x + item * image.rows * image.channels + channel, mask=is_channel, other=0.0)
    rows = image.rows * 1.0
    means = tl.where(is_channel, origin.to(tl.float32) + total / rows, 0.0)
    mean = tl.sum(means, 0) / size
    apart = tl.where(is_channel, means - mean, 0.0)
    spread = tl.sum(squares - total * total / rows, 0) + rows * tl.sum(apart * apart, 0)
    factor = 1.0 / tl.sqrt(tl.maximum(spread, 0.0) / (rows * size) + norm.epsilon)
    multiplier = tl.load(norm.weight + channel, mask=is_channel, other=0.0) * factor
    bias = tl.load(norm.bias + channel, mask=is_channel, other=0.0)
    tl.store(norm.multiplier + item * image.channels + channel, multiplier, mask=is_channel)
    tl.store(norm.shift + item * image.channels + channel, bias - mean * multiplier, mask=is_channel)


def group_norm(image: Image, norm: GroupNorm, items: int, groups: int) -> None:
    """Write the multipliers and shifts that a group norm multiplies and shifts x with."""
    size = image.channels // groups
    grid = (items, image.blocks, -(-image.channels // CHANNELS))
    blocks = triton.next_power_of_2(image.blocks)
    with active(image.sums):
        _group_sums[grid](image, ROWS, CHANNELS, **OPTIONS)
        _group_numbers[(items, groups)](image, norm, size, blocks, triton.next_power_of_2(size), **OPTIONS)
