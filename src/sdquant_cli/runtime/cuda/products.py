"""Packed layers on CUDA, as products of int8 codes; the twin of runtime/products.py."""

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...native.cuda import products as kernels
from ...quant.layer_function import Convolution, convolution_of
from ..codes import NIBBLE
from ..layers import Packed
from ..row_codes import Codes, check_channels

DEPTHS = (128, 64)  # input channels that a step multiplies: the first that groups fill, else the last
MOST_SUMMED = (2**31 - 1) // (255 * 128)  # products of codes that fit an int32
TILES = ((128, 128), (64, 128), (64, 64), (32, 32))  # rows and outputs
ENOUGH_TILES = 132  # for all multiprocessors of an H100
_STILL = Convolution((1, 1), (0, 0), (1, 1), 1)


def computes(layer: Packed) -> bool:
    """Return whether the kernels compute a layer: a convolution has one group, and sums fit an int32."""
    convolution = convolution_of(layer)
    return (convolution is None or convolution.groups == 1) and prod(layer.weight_shape[1:]) <= MOST_SUMMED


class Product:
    """A layer on codes: its weight as the kernels read it, laid out when this is made."""

    def __init__(self, layer: Packed) -> None:
        self.outputs, self.inputs, *kernel = layer.weight_shape
        moves = convolution_of(layer) or _STILL
        self.kernel = (kernel[0], kernel[1]) if kernel else (1, 1)
        self.moves: Any = (self.kernel, *moves[:3])
        self.groups = layer.form.groups(layer.weight_shape)
        self.bits, size = 4 if layer.bits.weights <= NIBBLE else 8, self.inputs // self.groups
        self.depth = next((depth for depth in DEPTHS if size % depth == 0), DEPTHS[-1])
        codes = layer.codes().reshape(self.outputs, self.groups, size, -1).permute(0, 3, 1, 2)
        laid_out = lay_out(codes, self.depth, self.bits)
        if laid_out.data_ptr() != layer.weight.data_ptr():
            form = (layer.weight_shape, self.groups, self.depth, self.bits)
            layer.hold(laid_out, lambda held: unlaid(held, *form))
        scales = layer.weight_step.float().view(self.outputs, self.groups).t().contiguous()
        bias = None if layer.bias is None else layer.bias.detach().float()
        self.weight: Any = kernels.Weight(
            laid_out, sums(codes), scales, bias, self.outputs, laid_out.shape[1], size
        )

    def __call__(
        self, codes: Codes, dtype: torch.dtype, residual: Tensor | None = None, addend: Tensor | None = None
    ) -> Tensor:
        """Return the output (n,h',w',C_out), with a residual like it and `addend` (n,C_out) added.

        Raises RuntimeError for codes of other channels, and for an image that is smaller than the kernel.
        """
        check_channels(codes.channels, self.inputs)
        n, h, w = codes.shape
        size = n, _output_size(h, self.moves, 0), _output_size(w, self.moves, 1), self.outputs
        tensors = [codes.low, codes.high, codes.scale, codes.zero, *self.weight[:4], residual, addend]
        shared = codes.shared and self.groups == 1
        form = [codes.line, self.inputs // self.groups, self.bits, self.depth, int(shared)]
        moves = [h, w, *chain.from_iterable(self.moves)]
        multiply = torch.ops.sdquant.product if torch.compiler.is_compiling() else _multiplied
        out: Tensor = multiply(tensors, size, form, moves, dtype)
        return out


def _multiplied(
    tensors: Sequence[Tensor | None],
    size: Sequence[int],
    form: Sequence[int],
    moves: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """Return a layer's output; the lists have what the fields of the kernel's arguments are."""
    out = _empty(tensors, size, form, moves, dtype)
    low, high, scale, zero, codes, sums_of_codes, scales, bias, residual, addend = tensors
    line, of_group, bits, depth, shared = form
    assert codes is not None
    assert scales is not None
    if out.numel():
        rows, outputs = size[0] * size[1] * size[2], size[3]
        pairs = [(moves[at], moves[at + 1]) for at in range(0, len(moves), 2)]
        kernel, is_plain = pairs[1], tuple(pairs[1:]) == ((1, 1), *_STILL[:3])
        planes, groups = 1 + (high is not None), len(scales)
        numbers = (bits, planes, prod(kernel), groups, -(-of_group // depth), depth)
        plan = kernels.Plan(*numbers, bool(shared), is_plain, *tile_of(rows, outputs, planes))
        weight = kernels.Weight(codes, sums_of_codes, scales, bias, outputs, codes.shape[1], of_group)
        kernels.product(
            weight,
            kernels.Input(low, high, scale, zero, line),
            kernels.Output(out, residual, addend, rows),
            kernels.Moves(pairs[0], (size[1], size[2]), *pairs[1:]),
            plan,
        )
    return out


def _empty(
    tensors: Sequence[Tensor | None],
    size: Sequence[int],
    _: Sequence[int],
    __: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """Return what `_multiplied` returns, without numbers."""
    scale = tensors[2]
    assert scale is not None
    return scale.new_empty(tuple(size), dtype=dtype)


torch.library.custom_op("sdquant::product", _multiplied, mutates_args=()).register_fake(_empty)


def lay_out(codes: Tensor, depth: int, bits: int) -> Tensor:
    """Return codes (C_out,taps,groups,size) int8 as the kernels read them: (C_out,bytes) int8."""
    rest = -codes.shape[-1] % depth
    padded = F.pad(codes, (0, rest)) if rest else codes  # which may be the layer's own memory
    if bits == NIBBLE:
        halves = padded.unflatten(-1, (-1, 2, depth // 2))
        padded = (halves[..., 0, :] & 15) | (halves[..., 1, :] << NIBBLE)
    return padded.flatten(1).contiguous()


def unlaid(held: Tensor, shape: torch.Size, groups: int, depth: int, bits: int) -> Tensor:
    """Return the codes in a weight's shape of what `lay_out` returned."""
    taps, size = prod(shape[2:]), shape[1] // groups
    flat = held.reshape(shape[0], taps, groups, -1)
    if bits == NIBBLE:
        halves = flat.unflatten(-1, (-1, depth // 2))
        flat = torch.stack([(halves << NIBBLE) >> NIBBLE, halves >> NIBBLE], dim=-2).flatten(-3)
    return flat[..., :size].permute(0, 2, 3, 1).reshape(shape)


def sums(codes: Tensor) -> Tensor:
    """Return the sums of codes (C_out,taps,groups,size): those of each tap's groups, then of all, int32."""
    parts = codes.sum(-1, dtype=torch.int32).flatten(1)
    return torch.cat([parts, parts.sum(1, keepdim=True, dtype=torch.int32)], 1).t().contiguous()


def tile_of(rows: int, outputs: int, planes: int) -> tuple[int, int]:
    """Return the largest tile that gives every multiprocessor one; sums of two planes need smaller ones."""
    tiles = TILES if planes == 1 else TILES[2:]
    for tile in tiles:
        if -(-rows // tile[0]) * -(-outputs // tile[1]) >= ENOUGH_TILES:
            return tile
    return tiles[-1]


def _output_size(size: int, moves: Any, axis: int) -> int:
    kernel, stride, padding, dilation = (pair[axis] for pair in moves)
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise RuntimeError(f"an image of {size} pixels is smaller than the kernel, with its border")
    return room // stride + 1
