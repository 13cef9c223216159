"""Correction of the quantized network's output at each timestep (PTQD, NeurIPS 2023).

The output eps_q = (1 + k) eps + r has a part k eps that goes with the floating-point output eps, and a rest
r whose mean b is known by channel. Both are removed: eps <- (eps_q - b) / (1 + k). Guidance is a
combination of two outputs with weights that sum to one, so correcting both outputs corrects the guided one.
PTQD also subtracts the variance of the rest from the noise that a sampler adds; that is not done here:
deterministic samplers add none. The standard deviation of the rest is stored for inspection only.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .rows import Rows


@dataclass(frozen=True)
class Correction:
    """The systematic error of the quantized network at each row's timestep."""

    slope: Tensor  # (rows) k
    bias: Tensor  # (rows,C) b
    std: Tensor  # (rows) standard deviation of the rest r

    def apply(self, prediction: Tensor, row: Tensor) -> Tensor:
        """Return (eps_q - b) / (1 + k) (PTQD) of predictions (N,C,...) at rows (N) or (1), in their dtype."""
        shape = (len(row), -1, *[1] * (prediction.dim() - 2))
        bias, slope = (part.to(prediction.device)[row].view(shape) for part in (self.bias, self.slope))
        return ((prediction.float() - bias) / (1 + slope)).to(prediction.dtype)


class ErrorMoments:
    """Sums over the outputs of both networks by row and channel, fp64: memory does not grow with the data."""

    def __init__(self, rows: int, channels: int) -> None:
        self._sums = torch.zeros(6, rows, channels, dtype=torch.float64)

    def add(self, quantized: Tensor, floating: Tensor, row: Tensor) -> None:
        """Add outputs (N,C,...) of both networks on the same inputs at rows (N)."""
        eps = floating.cpu().double().flatten(2)
        error = quantized.cpu().double().flatten(2) - eps
        moments = (torch.ones_like(eps), eps, error, eps * eps, eps * error, error * error)
        self._sums.index_add_(1, row.cpu(), torch.stack(moments).sum(3))

    def correction(self) -> Correction:
        """Return the correction of each row; a row without data takes the nearest one's.

        Raises ValueError if no row has data.
        """
        with_data = self._sums[0, :, 0].nonzero().flatten()
        if not len(with_data):
            raise ValueError("no outputs were added")
        rows = torch.arange(self._sums.shape[1])
        nearest = with_data[(rows[:, None] - with_data).abs().argmin(1)]
        count, eps, error, square, product, error_square = self._sums[:, nearest]  # (rows,C) each
        k = slope(*(part.sum(1) for part in (count, eps, error, square, product)))
        bias = (error - k[:, None] * eps) / count
        rest = (error_square - 2 * k[:, None] * product + k[:, None].square() * square).sum(1)
        variance = (rest - (count * bias.square()).sum(1)) / count.sum(1)
        return Correction(k.float(), bias.float(), variance.clamp(min=0).sqrt().float())


def slope(count: Tensor, eps: Tensor, error: Tensor, square: Tensor, product: Tensor) -> Tensor:
    """Return k (rows) of the least squares line error = k eps + const, at least 0 (PTQD, correlated part).

    The arguments are sums over all elements of a row: of 1, eps, error, eps^2 and eps * error.
    """
    variance = square - eps.square() / count
    covariance = product - eps * error / count
    return torch.where(variance > 0, covariance / variance, 0).clamp(min=0)


class _Output(Protocol):
    """The output of a diffusers denoiser."""

    sample: Tensor


def correct_outputs(network: nn.Module, correction: Correction, rows: Rows) -> None:
    """Make the network return corrected outputs, in place; `rows` follow its timesteps. The hook stays on.

    Channels without a correction, those of a learned variance, are left out.
    """
    channels = correction.bias.shape[1]

    def hook(_module: nn.Module, _args: object, output: _Output) -> _Output:
        sample = output.sample[:, :channels]
        output.sample = correction.apply(sample, rows.current(len(sample)))
        return output

    network.register_forward_hook(hook)
