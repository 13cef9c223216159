"""Correction of the quantized network's output, step by step (PTQD, NeurIPS 2023).

The output eps_q = (1 + k) eps + r has a part k eps that goes with the floating-point output eps, and a rest
r whose mean b is known by channel. Both are taken back: eps <- (eps_q - b) / (1 + k). Guidance is a
combination of two outputs with weights that sum to one, so correcting both outputs is correcting the
guided one. PTQD also takes the variance of the rest from the noise that a sampler adds; that is not done
here: the samplers that decide by themselves add none, and the standard deviation is kept to be looked at.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .rows import Rows


@dataclass(frozen=True)
class Correction:
    """What is known of the error of each row's timestep."""

    slope: Tensor  # (rows) k
    bias: Tensor  # (rows,C) b
    std: Tensor  # (rows) of the rest about its mean

    def apply(self, prediction: Tensor, row: Tensor) -> Tensor:
        """(eps_q - b) / (1 + k) (PTQD): predictions (N,C,...) at rows (N) or (1), in their own dtype."""
        shape = (len(row), -1, *[1] * (prediction.dim() - 2))
        bias, slope = (part.to(prediction.device)[row].view(shape) for part in (self.bias, self.slope))
        return ((prediction.float() - bias) / (1 + slope)).to(prediction.dtype)


class ErrorMoments:
    """Outputs of both networks as sums by row and channel, fp64: memory does not grow with the data."""

    def __init__(self, rows: int, channels: int) -> None:
        self._sums = torch.zeros(6, rows, channels, dtype=torch.float64)

    def add(self, quantized: Tensor, floating: Tensor, row: Tensor) -> None:
        """Take in outputs (N,C,...) on the same inputs at rows (N)."""
        eps = floating.cpu().double().flatten(2)
        error = quantized.cpu().double().flatten(2) - eps
        moments = (torch.ones_like(eps), eps, error, eps * eps, eps * error, error * error)
        self._sums.index_add_(1, row.cpu(), torch.stack(moments).sum(3))

    def correction(self) -> Correction:
        """Of each row, or of the nearest with data where it has none; raises ValueError if none has."""
        seen = self._sums[0, :, 0].nonzero().flatten()
        if not len(seen):
            raise ValueError("no pairs were added")
        rows = torch.arange(self._sums.shape[1])
        nearest = seen[(rows[:, None] - seen).abs().argmin(1)]
        count, eps, error, square, product, error_square = self._sums[:, nearest]  # (rows,C) each
        k = slope(*(part.sum(1) for part in (count, eps, error, square, product)))
        bias = (error - k[:, None] * eps) / count
        rest = (error_square - 2 * k[:, None] * product + k[:, None].square() * square).sum(1)
        variance = (rest - (count * bias.square()).sum(1)) / count.sum(1)
        return Correction(k.float(), bias.float(), variance.clamp(min=0).sqrt().float())


def slope(count: Tensor, eps: Tensor, error: Tensor, square: Tensor, product: Tensor) -> Tensor:
    """k (rows) of the least squares line error = k eps + const, 0 where negative (PTQD, correlated part).

    From sums over all elements of a row: their number, of eps, of the error, of eps^2 and of eps * error.
    """
    variance = square - eps.square() / count
    covariance = product - eps * error / count
    return torch.where(variance > 0, covariance / variance, 0).clamp(min=0)


def correct_outputs(network: nn.Module, correction: Correction, rows: Rows) -> None:
    """From now on the network gives corrected outputs, at the rows that follow its timesteps; in place."""

    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        output.sample = correction.apply(output.sample, rows.current(len(output.sample)))
        return output

    network.register_forward_hook(hook)
