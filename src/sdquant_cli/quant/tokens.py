"""Inputs rounded with a scale and zero-point for each token, or each pixel, found when the layer runs.

A token of a linear layer and a pixel of a convolution have one scale each, over the layer's input channels.
It covers the smallest and the largest value there, and zero, so nothing is clipped and nothing is stored.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..native import fake_quantize as native
from . import on_cuda
from .drop import Draw
from .grid import Grid
from .ranges import affine_parameters
from .rounding import Quantizer, plain_values


class TokenQuantizer(NamedTuple):
    """A quantizer of inputs with a scale for each position on the other axes; a draw keeps part as is."""

    axis: int  # of the channels
    grid: Grid
    draw: Draw | None = None

    def parameters(self, x: Tensor) -> Quantizer:
        """Return scales and zero-points that broadcast against x."""
        low, high = x.aminmax(dim=self.axis, keepdim=True)
        return Quantizer(*affine_parameters(low, high, self.grid), self.grid, self.draw)

    def values(self, x: Tensor) -> Tensor:
        """Return x (N,...) rounded, in fp32 or more, without a graph; by one native pass where it can be."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        layout = _kernel_layout(x, self)
        if layout is None:
            return plain_values(x, self.parameters(x))
        if on_cuda.takes(x):
            return on_cuda.rounded_tokens(x, layout, self.grid.high, self.draw)
        y = torch.empty_like(x)
        native.forward_tokens(x.data_ptr(), y.data_ptr(), layout, self.grid.high, self.draw or (0, 0))
        return y


def fake_quantize_tokens(x: Tensor, quantizer: TokenQuantizer) -> Tensor:
    """Return x rounded, in x's dtype; gradients pass through it unchanged, since nothing is clipped."""
    result: Tensor = _StraightThrough.apply(x, quantizer)
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor, quantizer: TokenQuantizer) -> Tensor:
        return quantizer.values(x).to(x.dtype)

    @staticmethod
    def backward(_ctx: Any, up: Tensor) -> tuple[Tensor, None]:
        return up, None


def _kernel_layout(x: Tensor, quantizer: TokenQuantizer) -> tuple[int, int, int] | None:
    """Return x's shape as the native kernel sees it, (outer, channels, inner); None if it does not take x."""
    takes = x.dtype == torch.float32 and x.numel() > 0
    takes = takes and (on_cuda.takes(x) or (x.device.type == "cpu" and native.available()))
    axis = quantizer.axis % x.dim()
    channels = x.shape[axis]
    if takes and x.is_contiguous():
        return x.shape[:axis].numel(), channels, x.shape[axis + 1 :].numel()
    is_last = x.dim() == 4 and axis == 1 and x.is_contiguous(memory_format=torch.channels_last)
    if takes and is_last and quantizer.draw is None:  # a draw counts values in their logical order
        return x.numel() // channels, channels, 1
    return None
