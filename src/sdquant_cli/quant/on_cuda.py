"""Rounding on CUDA by the Triton kernels, for rounding.py and tokens.py."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..native.cuda import support
from .drop import Draw

if TYPE_CHECKING:
    from ..native.cuda.fake_quantize import Rows
    from .rounding import Quantizer

_NONE = Draw(0, 0)


def takes(*tensors: Tensor) -> bool:
    """Return whether all tensors are on one device that runs the kernels."""
    first = tensors[0].device
    return all(tensor.device == first for tensor in tensors) and support.serves(first)


def rounded(x: Tensor, quantizer: "Quantizer") -> Tensor:
    """Return x rounded; its first axis decides which scale applies, and memory is in its order."""
    from ..native.cuda import fake_quantize as kernels  # imports Triton

    y = torch.empty_like(x)
    kernels.forward(_rows(x, quantizer), y, len(x), kernels.Draw(*(quantizer.draw or _NONE)))
    return y


def gradients(x: Tensor, up: Tensor, quantizer: "Quantizer", to_scale: bool) -> tuple[Tensor, Tensor | None]:
    """Return dL/dx and, if asked for, dL/ds of each row, from x and dL/dy, which lie alike in memory."""
    from ..native.cuda import fake_quantize as kernels  # imports Triton

    rows, to_x = _rows(x, quantizer), torch.empty_like(x)
    by_block = x.new_empty(len(x), kernels.blocks_of(rows.inner)) if to_scale else None
    written = kernels.Gradients(up, to_x, by_block)
    kernels.backward(rows, written, len(x), kernels.Draw(*(quantizer.draw or _NONE)))
    return to_x, None if by_block is None else by_block.sum(1)


def rounded_tokens(x: Tensor, shape: tuple[int, int, int], top: int, draw: Draw | None) -> Tensor:
    """Return x, (outer,channels,inner) in memory, rounded with a scale for each outer and inner index."""
    from ..native.cuda import fake_quantize as kernels  # imports Triton

    outer, channels, inner = shape
    y = torch.empty_like(x)
    values = kernels.Positions(x, y, outer * inner, channels, inner, float(top))
    kernels.forward_tokens(values, kernels.Draw(*(draw or _NONE)))
    return y


def _rows(x: Tensor, quantizer: "Quantizer") -> "Rows":
    from ..native.cuda import fake_quantize as kernels

    scale, zero_point, grid, _ = quantizer
    strides = int(scale.numel() > 1), int(zero_point.numel() > 1)
    inner = x.numel() // len(x)
    return kernels.Rows(x, scale, zero_point, *strides, float(grid.low), float(grid.high), inner)
