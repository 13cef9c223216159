"""Linear layers and convolutions of codes: int8 inputs with a scale for each row, int8 or int4 weights.

A row is a token of a linear layer or a pixel of a convolution in (n, h, w, c); its input is s (q - z), with a
scale s and a zero-point z of its own. A convolution is a sum over taps, each a linear layer of shifted rows:

    y[p, o] = sum over taps t and groups g of
              s[p + t] v[g, o] (sum_c q[p + t, c] w[o, t, c] - z[p + t] sum_c w[o, t, c])  + b[o]

The sums over c are exact, in int32, and v is the weight's scale in a group of input channels. Codes are held
less 128, as int8; those of 16 bits are two planes of bytes, q = low + 256 high. Rows beyond the border add
nothing. Where all rows of an item share one scale, taps are summed in int32 too, with a border of
zero-points.

Every output is summed in one order, so results do not depend on the tiles.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from .support import active


class Weight(NamedTuple):
    """A layer's weight, laid out, and what is done with its products."""

    codes: object  # (outputs,width) int8: the channels of each tap and group, to whole depths with zeros
    sums: object  # (taps * groups + 1,outputs) int32: of a tap's and group's codes; the last: of all
    scales: object  # (groups,outputs) fp32
    bias: object  # (outputs) fp32, or None
    outputs: int
    width: int  # bytes of an output's codes
    size: int  # input channels of a group


class Input(NamedTuple):
    """The codes of rows, their scales and zero-points."""

    low: object  # (rows,line) int8: codes less 128
    high: object  # the same of their high bytes, or None
    scale: object  # (rows) fp32
    zero: object  # (rows) int32
    line: int  # codes from row to row; at least a depth more of them may be read after the last


class Output(NamedTuple):
    """Where outputs go, and what is added to them."""

    to: object  # (rows,outputs)
    residual: object  # like it, or None
    addend: object  # (items,outputs) fp32, or None
    rows: int


class Moves(NamedTuple):
    """How a kernel moves over images: sizes of input and output, and (vertical, horizontal) pairs."""

    size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


class Plan(NamedTuple):
    """All that a kernel is compiled for."""

    bits: int  # of weights in memory: 8, or 4: a byte holds the codes of a channel and one half a depth on
    planes: int  # 2 for codes above 8 bits
    taps: int
    groups: int
    steps: int  # depths of a group
    depth: int  # input channels that one instruction's loop takes
    shared: bool  # whether all rows of an item have one scale, and there is one group
    plain: bool  # whether an output is of the same row of the input
    rows: int  # of a tile
    outputs: int


OPTIONS = {"enable_fp_fusion": False}  # multiplications and additions are rounded as they are written


@triton.jit
def _source(row, tap, moves, plan: tl.constexpr):
    """Return the row of the input that a tap reads for a row of the output, and whether there is one."""
    if plan.plain:
        return row, row >= 0
    out_h, out_w = moves.out_size
    h, w = moves.size
    item = row // (out_h * out_w)
    y = row // out_w % out_h * moves.stride[0] - moves.padding[0] + tap // moves.kernel[1] * moves.dilation[0]
    x = row % out_w * moves.stride[1] - moves.padding[1] + tap % moves.kernel[1] * moves.dilation[1]
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    return tl.where(inside, (item * h + y) * w + x, 0), inside


@triton.jit
def _plane(zero, number: tl.constexpr):
    """Return what is subtracted from a plane of codes, of zero-points."""
    return (zero & 255 if number == 0 else zero >> 8) - 128


@triton.jit
def _weights(weight, output, step, plan: tl.constexpr):
    """Return the weight's codes of a depth: (depth,outputs), or the two halves of a depth."""
    bytes_of_depth: tl.constexpr = plan.depth * plan.bits // 8
    channel = tl.arange(0, bytes_of_depth)
    codes = tl.load(weight.codes + output[None, :] * weight.width + step * bytes_of_depth + channel[:, None])
    if plan.bits == 8:
        return codes, codes
    return (codes << 4) >> 4, codes >> 4


@triton.jit
def _added(total, plane, read, weights, plan: tl.constexpr):
    """Return sums with the products of a depth; `read` is a place, and what stands beyond the border."""
    place, inside, beyond = read
    half: tl.constexpr = plan.depth * plan.bits // 8
    channel = tl.arange(0, half)
    codes = tl.load(plane + place[:, None] + channel[None, :])
    if plan.shared and not plan.plain:
        codes = tl.where(inside[:, None], codes, beyond[:, None].to(tl.int8))
    total = tl.dot(codes, weights[0], total, out_dtype=tl.int32)
    if plan.bits == 4:
        codes = tl.load(plane + place[:, None] + half + channel[None, :])
        if plan.shared and not plan.plain:
            codes = tl.where(inside[:, None], codes, beyond[:, None].to(tl.int8))
        total = tl.dot(codes, weights[1], total, out_dtype=tl.int32)
    return total


@triton.jit
def _values(low, high, row_numbers, weight, place, plan: tl.constexpr):
    """Return the values of sums of codes: less what zero-points add to them, times scales.

    `place` is the sums' tap and group, and outputs.
    """
    (scale, zero), (part, output) = row_numbers, place
    sums = tl.load(weight.sums + part * weight.outputs + output)
    exact = low - _plane(zero, 0)[:, None] * sums[None, :]
    values = exact.to(tl.float32)
    if plan.planes == 2:
        above = high - _plane(zero, 1)[:, None] * sums[None, :]
        values += 256.0 * above.to(tl.float32)
    values *= scale[:, None]
    if plan.groups > 1:
        values *= tl.load(weight.scales + part % plan.groups * weight.outputs + output)[None, :]
    return values


@triton.jit
def _finished(values, places, weight, out, item, plan: tl.constexpr):
    """Write outputs with bias, addend and residual."""
    row, output, is_output = places
    if plan.groups == 1:
        values *= tl.load(weight.scales + output)[None, :]
    if weight.bias is not None:
        values += tl.load(weight.bias + output)[None, :]
    if out.addend is not None:
        values += tl.load(out.addend + item[:, None] * weight.outputs + output[None, :])
    place = row.to(tl.int64)[:, None] * weight.outputs + output[None, :]
    if out.residual is not None:
        values += tl.load(out.residual + place).to(tl.float32)
    tl.store(out.to + place, values.to(out.to.dtype.element_ty), mask=is_output)


@triton.jit
def _product(weight, codes, out, moves, plan: tl.constexpr):
    rows: tl.constexpr = plan.rows
    outputs: tl.constexpr = plan.outputs
    once: tl.constexpr = plan.shared or (plan.plain and plan.groups == 1)  # is the sum of all an int32
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    output = tl.program_id(1) * outputs + tl.arange(0, outputs)
    is_output = (row < out.rows)[:, None] & (output < weight.outputs)[None, :]
    row, output = tl.minimum(row, out.rows - 1), tl.minimum(output, weight.outputs - 1)
    item = row // (moves.out_size[0] * moves.out_size[1])
    first = row if plan.plain else item * (moves.size[0] * moves.size[1])
    beyond = tl.load(codes.zero + first)
    low = tl.zeros((rows, outputs), tl.int32)
    high = tl.zeros((rows, outputs), tl.int32)
    values = tl.zeros((rows, outputs), tl.float32)
    of_item = tl.zeros((rows,), tl.float32)  # the scale of an item's rows
    missing = tl.zeros((rows,), tl.float32)  # no number where a row that is read has none
    for step in range(plan.taps * plan.groups * plan.steps):
        part = step // plan.steps  # a tap's group
        source, inside = _source(row, part // plan.groups, moves, plan)
        channel = part % plan.groups * weight.size + step % plan.steps * plan.depth
        place = source.to(tl.int64) * codes.line + channel
        weights = _weights(weight, output, step, plan)
        low = _added(low, codes.low, (place, inside, _plane(beyond, 0)), weights, plan)
        if plan.planes == 2:
            high = _added(high, codes.high, (place, inside, _plane(beyond, 1)), weights, plan)
        if not (once and plan.plain) and step % plan.steps == plan.steps - 1:
            scale = tl.where(inside, tl.load(codes.scale + source), 0.0)
            of_item = tl.maximum(of_item, scale)
            missing += scale * 0.0
            if not once:
                numbers = (scale, tl.load(codes.zero + source))
                values += _values(low, high, numbers, weight, (part, output), plan)
                low = tl.zeros((rows, outputs), tl.int32)
                high = tl.zeros((rows, outputs), tl.int32)
    if once:
        scale = tl.load(codes.scale + first) if plan.plain else of_item + missing
        place = (plan.taps * plan.groups, output)
        values = _values(low, high, (scale, beyond), weight, place, plan)
    _finished(values, (row, output, is_output), weight, out, item, plan)


def product(weight: Weight, codes: Input, out: Output, moves: Moves, plan: Plan) -> object:
    """Compute a layer; returns what Triton does."""
    grid = (-(-out.rows // plan.rows), -(-weight.outputs // plan.outputs))
    warps = 8 if plan.rows * plan.outputs > 128 * 64 else 4
    with active(out.to):
        return _product[grid](weight, codes, out, moves, plan, num_warps=warps, num_stages=4, **OPTIONS)
