"""Rounding that lets gradients through: straight-through for values, LSQ for scales, LSQ+ for zero-points.

Gradients of y = (clip(round(x / s) + z, low, high) - z) * s:
dy/dx = 1 inside the range, else 0;  dy/ds = round(x / s) - x / s inside, else clipped code - z
(Esser et al. 2020, "Learned Step Size Quantization", eq. 3);  dy/dz = 0 inside, else -s (Bhalgat et al. 2020,
"LSQ+", eq. 6). Values that a draw keeps are y = x.

`round_values` and `round_gradients` are one pass each where the native kernel takes the tensors, and
plain torch elsewhere; the plain functions are the kernel's specification.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..native import fake_quantize as native
from . import on_cuda
from .drop import Draw
from .grid import Grid

_ZERO = torch.zeros(())


class Quantizer(NamedTuple):
    """A quantizer of a tensor: scale and zero-point broadcast against it; a draw keeps part as it is."""

    scale: Tensor
    zero_point: Tensor
    grid: Grid
    draw: Draw | None = None

    @classmethod
    def symmetric(cls, scale: Tensor, grid: Grid) -> "Quantizer":
        """Return a quantizer with zero-point 0, as weights have."""
        return cls(scale, _ZERO.to(scale.device), grid)


def plain_values(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Return y, x rounded, by plain torch operations."""
    scale, zero_point, grid, draw = quantizer
    codes = torch.round(x / scale).add_(zero_point).clamp_(grid.low, grid.high)
    y = codes.sub_(zero_point).mul_(scale)
    return y if draw is None else torch.where(draw.keep_mask(x), x, y)


def plain_gradients(
    x: Tensor, up: Tensor, quantizer: Quantizer, *, to_scale: bool
) -> tuple[Tensor, Tensor | None]:
    """Return dL/dx (x's shape) and, if asked for, dL/ds (the scale's shape) from up = dL/dy."""
    scale, zero_point, grid, draw = quantizer
    scaled = x / scale
    rounded = torch.round(scaled)
    codes = (rounded + zero_point).clamp_(grid.low, grid.high).sub_(zero_point)
    inside = codes == rounded
    kept = None if draw is None else draw.keep_mask(x)
    by_scale = None
    if to_scale:
        slope = torch.where(inside, rounded.sub_(scaled), codes)
        if kept is not None:
            slope.masked_fill_(kept, 0)
        by_scale = slope.mul_(up).sum_to_size(scale.shape)
    passed = inside if kept is None else inside | kept
    return torch.where(passed, up, 0), by_scale


def round_values(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Return what `plain_values` returns, without a graph."""
    if not _kernel_takes(x, quantizer):
        return plain_values(x, quantizer)
    quantizer = _contiguous(quantizer)
    if on_cuda.takes(x):
        return on_cuda.rounded(x, quantizer)
    y = torch.empty_like(x)
    native.forward(x.data_ptr(), y.data_ptr(), _kernel_arguments(x, quantizer))
    return y


def round_gradients(
    x: Tensor, up: Tensor, quantizer: Quantizer, *, to_scale: bool
) -> tuple[Tensor, Tensor | None]:
    """Return what `plain_gradients` returns, without a graph."""
    if not _kernel_takes(x, quantizer) or up.dtype != x.dtype:
        return plain_gradients(x, up, quantizer, to_scale=to_scale)
    quantizer = _contiguous(quantizer)
    if up.stride() != x.stride():
        up = torch.empty_like(x).copy_(up)
    to_x, by_row = _gradients_of_rows(x, up, quantizer, to_scale)
    if by_row is None:
        return to_x, None
    by_scale = by_row if quantizer.scale.numel() > 1 else by_row.sum()
    return to_x, by_scale.view(quantizer.scale.shape)


def _gradients_of_rows(
    x: Tensor, up: Tensor, quantizer: Quantizer, to_scale: bool
) -> tuple[Tensor, Tensor | None]:
    """Return dL/dx and, if asked for, dL/ds of each row, by the kernel of x's device."""
    if on_cuda.takes(x):
        return on_cuda.gradients(x, up, quantizer, to_scale)
    to_x, by_row = torch.empty_like(x), x.new_empty(len(x)) if to_scale else None
    row_address = None if by_row is None else by_row.data_ptr()
    arguments = _kernel_arguments(x, quantizer)
    native.backward((x.data_ptr(), up.data_ptr()), (to_x.data_ptr(), row_address), arguments)
    return to_x, by_row


def zero_point_gradient(up: Tensor, to_x: Tensor, quantizer: Quantizer) -> Tensor:
    """Return dL/dz (the zero-point's shape) from up = dL/dy and dL/dx, which differ where x is clipped."""
    return ((to_x - up) * quantizer.scale).sum_to_size(quantizer.zero_point.shape)


def round_through(x: Tensor) -> Tensor:
    """Return x rounded to integers; gradients pass unchanged."""
    return x + (x.round() - x).detach()


def best_scales(x: Tensor, largest: Tensor, factors: Tensor, grid: Grid) -> Tensor:
    """Return for each row of x (rows, inner) the scale, of largest (rows) x factors, that rounds it best.

    All are fp32, the grid is symmetric, and the error is squared; of equals the first is taken.
    """
    in_c = x.device.type == "cpu" and not on_cuda.takes(x)
    if not (in_c and _kernel_takes(x, Quantizer.symmetric(largest[:, None], grid)) and x.is_contiguous()):
        return _best_scales(x, largest, factors, grid)
    largest, factors, best = largest.contiguous(), factors.contiguous(), torch.empty_like(largest)
    rows, inner = x.shape
    native.best_steps(
        x.data_ptr(),
        best.data_ptr(),
        (rows, inner),
        largest.data_ptr(),
        (factors.data_ptr(), len(factors)),
        (grid.low, grid.high),
    )
    return best


def _best_scales(x: Tensor, largest: Tensor, factors: Tensor, grid: Grid) -> Tensor:
    least = torch.full_like(largest, torch.inf, dtype=torch.float64)
    best = largest / -grid.low
    for factor in factors:
        scale = largest * factor
        rounded = plain_values(x, Quantizer.symmetric(scale[:, None], grid))
        error = (rounded - x).double().square().sum(dim=1)
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, scale, best)
    return best


def fake_quantize(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Round x, differentiable in x and in the scale.

    The arithmetic is that of the scale's dtype; the result is cast to x's.
    """
    result: Tensor = _FakeQuantize.apply(x.to(quantizer.scale.dtype), *quantizer)
    return result.to(x.dtype)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, draw: Draw | None
    ) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.grid, ctx.draw = grid, draw
        return round_values(x, Quantizer(scale, zero_point, grid, draw))

    @staticmethod
    def backward(ctx: Any, up: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        quantizer = Quantizer(scale, zero_point, ctx.grid, ctx.draw)
        need_x, need_scale, need_zero, *_ = ctx.needs_input_grad
        to_x, to_scale = round_gradients(x, up, quantizer, to_scale=need_scale)
        to_zero = zero_point_gradient(up, to_x, quantizer) if need_zero else None
        return to_x if need_x else None, to_scale, to_zero, None, None


def _kernel_takes(x: Tensor, quantizer: Quantizer) -> bool:
    """Return whether a native kernel takes these tensors: that in C on a CPU, Triton's on CUDA."""
    scale, zero_point, _, draw = quantizer
    on_cpu = x.device.type == scale.device.type == zero_point.device.type == "cpu"
    return (
        x.dtype == torch.float32
        and x.dim() > 0
        and x.numel() > 0
        and (_dense(x) if draw is None else x.is_contiguous())
        and _by_row(scale, x)
        and _by_row(zero_point, x)
        and (on_cuda.takes(x, scale, zero_point) or (on_cpu and native.available()))
    )


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _by_row(parameter: Tensor, x: Tensor) -> bool:
    """Return whether x's first axis alone decides which value of the parameter applies."""
    rows = x.shape[0] if x.dim() else 1
    alone = parameter.numel() == 1 or (parameter.dim() == x.dim() and parameter.numel() == parameter.shape[0])
    return alone and parameter.numel() in (1, rows) and parameter.dtype == torch.float32


def _contiguous(quantizer: Quantizer) -> Quantizer:
    scale, zero_point, grid, draw = quantizer
    return Quantizer(scale.contiguous(), zero_point.contiguous(), grid, draw)


def _kernel_arguments(x: Tensor, quantizer: Quantizer) -> native.Arguments:
    scale, zero_point, grid, draw = quantizer
    rows = len(x)
    strides = (int(scale.numel() > 1), int(zero_point.numel() > 1))
    addresses = (scale.data_ptr(), zero_point.data_ptr())
    return native.Arguments(
        rows, x.numel() // rows, *addresses, *strides, grid.low, grid.high, *(draw or (0, 0))
    )
