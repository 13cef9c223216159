"""Rounding that lets gradients through: straight-through for values, LSQ for step sizes.

Gradients of y = (clip(round(x / s) + z, low, high) - z) * s, with zero-points fixed:
dy/dx = 1 inside the range, else 0;  dy/ds = round(x / s) - x / s inside, else clipped code - z
(Esser et al. 2020, "Learned Step Size Quantization", eq. 3).
"""

from typing import Any

import torch
from torch import Tensor

from .grid import Grid


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero: Tensor, grid: Grid) -> Tensor:
        scaled = x / step
        rounded = torch.round(scaled)
        codes = (rounded + zero).clamp_(grid.low, grid.high).sub_(zero)
        inside = codes == rounded
        if ctx.needs_input_grad[1]:
            # dy/ds, kept in place of x: the error of rounding inside the range, the code outside
            ctx.save_for_backward(inside, torch.where(inside, rounded.sub_(scaled), codes))
        else:
            ctx.save_for_backward(inside)
        ctx.step_shape = step.shape
        return codes * step

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        inside, *by_step = ctx.saved_tensors
        to_x = gradient * inside if ctx.needs_input_grad[0] else None
        to_step = (gradient * by_step[0]).sum_to_size(ctx.step_shape) if by_step else None
        return to_x, to_step, None, None


def fake_quantize(x: Tensor, step: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """x rounded to the grid of step `step` and zero-point `zero` (both broadcast), differentiable."""
    result: Tensor = _FakeQuantize.apply(x, step, zero, grid)
    return result
