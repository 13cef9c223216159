"""Rounding to a uniform grid and its gradients, each in one pass over memory, as fake_quantize.c does.

x is (rows,inner) fp32. A row has its own scale and zero-point (stride 1), or all share one (stride 0). The
arithmetic is that of quant/rounding.py, operation for operation. Sums run over fixed blocks, so results do
not depend on how the device schedules them. Values whose hashed place is below a draw's bound stay as they
are (quant/drop.py); with bound 0 none do.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from .support import active

BLOCK = 1024  # values of a program
POSITIONS, CHANNELS = 32, 64  # of a program that finds scales, at once
OPTIONS = {"enable_fp_fusion": False}  # multiplications and additions are rounded as they are written
_HALF = tl.constexpr(12582912.0)  # 1.5 * 2^23, see codes.py
_FAR = tl.constexpr(1048576.0)  # 2^20, beyond any code
_TINY = tl.constexpr(1e-8)  # the smallest scale, as quant/grid.py has it


class Rows(NamedTuple):
    """Values, and the grid of each row."""

    x: object  # (rows,inner) fp32
    scale: object
    zero: object
    scale_stride: int
    zero_stride: int
    low: float  # smallest code
    high: float
    inner: int


class Draw(NamedTuple):
    """The values that stay as they are; both numbers have 32 bits."""

    seed: int
    bound: int


class Gradients(NamedTuple):
    """The gradient of y, and where those of x and of scales go."""

    up: object  # dL/dy, like x
    to_x: object  # like x
    to_scale: object  # (rows,blocks) fp32, parts of sums; or None


class Positions(NamedTuple):
    """Values (outer,channels,inner) fp32 that have a scale for each outer and inner index, a position."""

    x: object
    y: object
    count: int  # outer * inner
    channels: int
    inner: int
    top: float  # the largest code


@triton.jit
def _rounded(x):
    """Return x rounded to the nearest integer, of two the even one; what is far beyond codes stays so."""
    return (tl.minimum(tl.maximum(x, -_FAR), _FAR) + _HALF) - _HALF


@triton.jit
def _kept(place, draw: Draw):
    """Return which values stay as they are (Wellons 2018, lowbias32)."""
    h = (place & 0xFFFFFFFF) ^ draw.seed  # 32 bits held in 64, as quant/drop.py has them
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * (0x846CA68B - 0x100000000)) & 0xFFFFFFFF
    return (h ^ (h >> 16)) < draw.bound


@triton.jit
def _of_row(rows: Rows, block: tl.constexpr):
    """Return the places of a program's values, which of them there are, their scale and zero-point."""
    row = tl.program_id(0)
    within = tl.program_id(1) * block + tl.arange(0, block)
    scale = tl.load(rows.scale + row * rows.scale_stride)
    zero = tl.load(rows.zero + row * rows.zero_stride)
    return row.to(tl.int64) * rows.inner + within, within < rows.inner, scale, zero


@triton.jit
def _forward(rows: Rows, y, draw: Draw, drops: tl.constexpr, block: tl.constexpr):
    place, mask, scale, zero = _of_row(rows, block)
    x = tl.load(rows.x + place, mask=mask, other=0.0)
    code = tl.minimum(tl.maximum(_rounded(tl.div_rn(x, scale)) + zero, rows.low), rows.high)
    value = tl.where(x == x, (code - zero) * scale, x)  # what is no number stays so
    if drops:
        value = tl.where(_kept(place, draw), x, value)
    tl.store(y + place, value, mask=mask)


@triton.jit
def _backward(rows: Rows, gradients: Gradients, draw: Draw, drops: tl.constexpr, block: tl.constexpr):
    place, mask, scale, zero = _of_row(rows, block)
    x = tl.load(rows.x + place, mask=mask, other=0.0)
    up = tl.load(gradients.up + place, mask=mask, other=0.0)
    scaled = tl.div_rn(x, scale)
    rounded = _rounded(scaled)
    code = tl.minimum(tl.maximum(rounded + zero, rows.low), rows.high) - zero
    inside = code == rounded
    slope = tl.where(x == x, tl.where(inside, rounded - scaled, code), x) * up
    if drops:
        kept = _kept(place, draw)
        inside = inside | kept
        slope = tl.where(kept, 0.0, slope)
    tl.store(gradients.to_x + place, tl.where(inside & (x == x), up, 0.0), mask=mask)
    if gradients.to_scale is not None:
        part = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        tl.store(gradients.to_scale + part, tl.sum(tl.where(mask, slope, 0.0), 0))


@triton.jit
def _tokens(values: Positions, draw: Draw, drops: tl.constexpr, at_once: tl.constexpr, wide: tl.constexpr):
    position = tl.program_id(0) * at_once + tl.arange(0, at_once)
    is_position = position < values.count
    position = tl.minimum(position, values.count - 1).to(tl.int64)
    start = position // values.inner * values.channels * values.inner + position % values.inner
    low = tl.zeros((at_once,), tl.float32)
    high = tl.zeros((at_once,), tl.float32)
    missing = tl.zeros((at_once,), tl.int32)
    for first in range(0, values.channels, wide):
        channel = first + tl.arange(0, wide)
        place = start[:, None] + channel[None, :] * values.inner
        x = tl.load(values.x + place, mask=(channel < values.channels)[None, :], other=0.0)
        low = tl.minimum(low, tl.min(x, 1))
        high = tl.maximum(high, tl.max(x, 1))
        missing = tl.maximum(missing, tl.max((x != x).to(tl.int32), 1))
    scale = tl.maximum(tl.div_rn(high - low, values.top), _TINY)
    zero = tl.minimum(tl.maximum(_rounded(0.0 - tl.div_rn(low, scale)), 0.0), values.top)
    scale = tl.where(missing > 0, float("nan"), scale)
    for first in range(0, values.channels, wide):
        channel = first + tl.arange(0, wide)
        place = start[:, None] + channel[None, :] * values.inner
        mask = is_position[:, None] & (channel < values.channels)[None, :]
        x = tl.load(values.x + place, mask=mask, other=0.0)
        code = _rounded(tl.div_rn(x, scale[:, None])) + zero[:, None]
        code = tl.minimum(tl.maximum(code, 0.0), values.top)
        y = (code - zero[:, None]) * scale[:, None]
        if drops:
            y = tl.where(_kept(place, draw), x, y)
        tl.store(values.y + place, y, mask=mask)


def forward(rows: Rows, y: object, count: int, draw: Draw) -> None:
    """Write so many rows, rounded, to y."""
    with active(y):
        _forward[(count, blocks_of(rows.inner))](rows, y, draw, draw.bound > 0, BLOCK, **OPTIONS)


def backward(rows: Rows, gradients: Gradients, count: int, draw: Draw) -> None:
    """Write the gradients of so many rows."""
    with active(gradients.up):
        _backward[(count, blocks_of(rows.inner))](rows, gradients, draw, draw.bound > 0, BLOCK, **OPTIONS)


def blocks_of(inner: int) -> int:
    """Return the blocks of a row, each of which has a part of a scale's gradient."""
    return -(-inner // BLOCK)


def forward_tokens(values: Positions, draw: Draw) -> None:
    """Write values, rounded with a scale for each position, to y."""
    grid = (-(-values.count // POSITIONS),)
    with active(values.y):
        _tokens[grid](values, draw, draw.bound > 0, POSITIONS, CHANNELS, **OPTIONS)
