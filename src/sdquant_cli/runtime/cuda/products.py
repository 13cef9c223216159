"""Packed layers on CUDA, as products of int8 codes; the twin of runtime/products.py."""

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
        self.weight = kernels.Weight(
            laid_out, sums(codes), scales, bias, self.outputs, laid_out.shape[1], size
        )
        self.is_plain = self.moves == ((1, 1), *_STILL[:3])

    def __call__(
        self, codes: Codes, dtype: torch.dtype, residual: Tensor | None = None, addend: Tensor | None = None
    ) -> Tensor:
        """Return the output (n,h',w',C_out), with a residual like it and `addend` (n,C_out) added.

        Raises RuntimeError for codes of other channels, and for an image that is smaller than the kernel.
        """
        check_channels(codes.channels, self.inputs)
        n, *size = codes.shape
        out_size = _output_size(size[0], self.moves, 0), _output_size(size[1], self.moves, 1)
        out = codes.scale.new_empty(n, *out_size, self.outputs, dtype=dtype)
        if out.numel():
            given = kernels.Input(codes.low, codes.high, codes.scale, codes.zero, codes.line)
            rows = n * prod(out_size)
            moves = kernels.Moves((size[0], size[1]), out_size, *self.moves)
            target = kernels.Output(out, residual, addend, rows)
            kernels.product(self.weight, given, target, moves, self._plan(codes, rows))
        return out

    def _plan(self, codes: Codes, rows: int) -> kernels.Plan:
        planes, taps = 1 + (codes.high is not None), prod(self.kernel)
        steps = -(-self.weight.size // self.depth)
        shared = codes.shared and self.groups == 1
        tile = tile_of(rows, self.outputs, planes)
        form = (self.bits, planes, taps, self.groups, steps, self.depth)
        return kernels.Plan(*form, shared, self.is_plain, *tile)


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
