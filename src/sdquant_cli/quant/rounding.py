"""Rounding that lets gradients through: straight-through for values, LSQ for step sizes.

Gradients of y = (clip(round(x / s) + z, low, high) - z) * s, with zero-points fixed:
dy/dx = 1 inside the range, else 0;  dy/ds = round(x / s) - x / s inside, else clipped code - z
(Esser et al. 2020, "Learned Step Size Quantization", eq. 3). Values that a draw leaves are y = x.

`round_values` and `round_gradients` are one pass each where the native kernel takes the tensors, and
plain torch elsewhere; the plain functions are the kernel's specification.
"""

from typing import Any

import torch
from torch import Tensor

from ..native import fake_quantize as native
from .drop import Draw
from .grid import Grid


def plain_values(x: Tensor, step: Tensor, zero: Tensor, grid: Grid, draw: Draw | None = None) -> Tensor:
    """y; step and zero-point broadcast against x."""
    y = (torch.round(x / step).add_(zero)).clamp_(grid.low, grid.high).sub_(zero).mul_(step)
    return y if draw is None else torch.where(draw.keep_mask(x), x, y)


def plain_gradients(
    x: Tensor,
    up: Tensor,
    step: Tensor,
    zero: Tensor,
    grid: Grid,
    draw: Draw | None = None,
    *,
    to_step: bool,
) -> tuple[Tensor, Tensor | None]:
    """dL/dx (x's shape) and dL/ds (step's shape) from up = dL/dy."""
    scaled = x / step
    rounded = torch.round(scaled)
    codes = (rounded + zero).clamp_(grid.low, grid.high).sub_(zero)
    inside, by_step = codes == rounded, None
    left = None if draw is None else draw.keep_mask(x)
    if to_step:
        slope = torch.where(inside, rounded.sub_(scaled), codes)
        if left is not None:
            slope.masked_fill_(left, 0)
        by_step = slope.mul_(up).sum_to_size(step.shape)
    return torch.where(inside if left is None else inside | left, up, 0), by_step


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _by_row(parameter: Tensor, x: Tensor) -> bool:
    """Whether x's first axis alone tells which value of the parameter applies."""
    rows = x.shape[0] if x.dim() else 1
    alone = parameter.numel() == 1 or (parameter.dim() == x.dim() and parameter.numel() == parameter.shape[0])
    return alone and parameter.numel() in (1, rows) and parameter.dtype == torch.float32


def _fits(x: Tensor, step: Tensor, zero: Tensor, draw: Draw | None = None) -> bool:
    """Whether the native kernel takes these tensors."""
    return (
        x.device.type == step.device.type == zero.device.type == "cpu"
        and x.dtype == torch.float32
        and x.dim() > 0
        and x.numel() > 0
        and (_dense(x) if draw is None else x.is_contiguous())
        and _by_row(step, x)
        and _by_row(zero, x)
        and native.available()
    )


def _shape(x: Tensor, step: Tensor, zero: Tensor, grid: Grid, draw: Draw | None) -> tuple[float, ...]:
    rows = len(x)
    strides = (int(step.numel() > 1), int(zero.numel() > 1))
    memory = (rows, x.numel() // rows, step.data_ptr(), zero.data_ptr(), *strides)
    return (*memory, grid.low, grid.high, *(draw or (0, 0)))


def round_values(x: Tensor, step: Tensor, zero: Tensor, grid: Grid, draw: Draw | None = None) -> Tensor:
    """As `plain_values`, without a graph."""
    if not _fits(x, step, zero, draw):
        return plain_values(x, step, zero, grid, draw)
    step, zero, y = step.contiguous(), zero.contiguous(), torch.empty_like(x)
    native.forward(x.data_ptr(), y.data_ptr(), *_shape(x, step, zero, grid, draw))
    return y


def round_gradients(
    x: Tensor,
    up: Tensor,
    step: Tensor,
    zero: Tensor,
    grid: Grid,
    draw: Draw | None = None,
    *,
    to_step: bool,
) -> tuple[Tensor, Tensor | None]:
    """As `plain_gradients`, without a graph."""
    if not _fits(x, step, zero, draw) or up.dtype != x.dtype:
        return plain_gradients(x, up, step, zero, grid, draw, to_step=to_step)
    step, zero, to_x = step.contiguous(), zero.contiguous(), torch.empty_like(x)
    if up.stride() != x.stride():
        up = torch.empty_like(x).copy_(up)
    by_row = x.new_empty(len(x)) if to_step else None
    native.backward(
        x.data_ptr(),
        up.data_ptr(),
        to_x.data_ptr(),
        None if by_row is None else by_row.data_ptr(),
        *_shape(x, step, zero, grid, draw),
    )
    if by_row is None:
        return to_x, None
    return to_x, by_row.view(step.shape) if step.numel() > 1 else by_row.sum().view(step.shape)


def row_rounding_errors(x: Tensor, step: Tensor, grid: Grid) -> Tensor:
    """Squared error (rows, float64) of rounding x (rows, inner) to symmetric grids of steps (rows)."""
    zero = torch.zeros((), device=x.device)
    if not (_fits(x, step[:, None], zero) and x.is_contiguous()):
        return (plain_values(x, step[:, None], zero, grid) - x).double().square().sum(dim=1)
    step, error = step.contiguous(), x.new_empty(len(x), dtype=torch.float64)
    rows, inner = x.shape
    native.squared_errors(x.data_ptr(), error.data_ptr(), rows, inner, step.data_ptr(), grid.low, grid.high)
    return error


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero: Tensor, grid: Grid, draw: Draw | None) -> Tensor:
        ctx.save_for_backward(x, step, zero)
        ctx.how = grid, draw
        return round_values(x, step, zero, grid, draw)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        x, step, zero = ctx.saved_tensors
        to_x, to_step = round_gradients(
            x, gradients[0], step, zero, *ctx.how, to_step=ctx.needs_input_grad[1]
        )
        return to_x if ctx.needs_input_grad[0] else None, to_step, None, None, None


def fake_quantize(x: Tensor, step: Tensor, zero: Tensor, grid: Grid, draw: Draw | None = None) -> Tensor:
    """Round x to the grid of step `step` and zero-point `zero` (both broadcast), differentiable.

    The arithmetic is that of the step size's format; the result is cast to x's. A draw leaves some values of
    x as they are.
    """
    result: Tensor = _FakeQuantize.apply(x.to(step.dtype), step, zero, grid, draw)
    return result.to(x.dtype)
