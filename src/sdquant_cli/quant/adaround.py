"""AdaRound: whether a weight is rounded up or down is learned (Nagel et al. 2020, "Up or Down?")."""

import torch
from torch import Tensor, nn

from .grid import Grid
from .weights import in_groups

LOW, HIGH = -0.1, 1.1  # gamma and zeta: the sigmoid is stretched, so that 0 and 1 are reached
BETA = (20.0, 2.0)  # of the regulariser, first and last
WARM_UP = 0.2  # share of the iterations before the regulariser counts


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """Return h in [0, 1] from alpha of any shape: how far a weight is rounded up (AdaRound)."""
    return (torch.sigmoid(alpha) * (HIGH - LOW) + LOW).clamp(0, 1)


def inverse_rectified_sigmoid(share: Tensor) -> Tensor:
    """Return the alpha whose h is `share`, in [0, 1)."""
    return -torch.log((HIGH - LOW) / (share - LOW) - 1)


def rounding_penalty(share: Tensor, beta: float) -> Tensor:
    """Return the sum of 1 - |2h - 1|^beta: zero if every weight goes fully up or down (AdaRound: f_reg)."""
    return (1 - (2 * share - 1).abs().pow(beta)).sum()


def beta_at(progress: float) -> float | None:
    """Return beta at a share of the iterations, from the first value to the last; None in the warm-up."""
    if progress < WARM_UP:
        return None
    first, last = BETA
    return last + (first - last) * max(0.0, 1 - (progress - WARM_UP) / (1 - WARM_UP))


class SoftRounding(nn.Module):
    """A weight between its lower and its upper neighbour on the grid; it starts where the weight is."""

    def __init__(self, weight: Tensor, scale: Tensor, grid: Grid) -> None:
        """Start from a weight (C_out,...) fp32 with scales (C_out G) and a symmetric grid."""
        super().__init__()
        self.shape, self.scale, self.grid = weight.shape, scale.detach()[:, None], grid
        scaled = in_groups(weight.detach(), scale) / self.scale
        self.floor = scaled.floor()
        self.alpha = nn.Parameter(inverse_rectified_sigmoid(scaled - self.floor))

    def forward(self, _weight: Tensor) -> Tensor:
        """Return clip(floor(W/s) + h) s (AdaRound: the soft-quantized weight)."""
        return self._weight(rectified_sigmoid(self.alpha))

    def rounding_penalty(self, beta: float) -> Tensor:
        """Return the regulariser of this layer."""
        return rounding_penalty(rectified_sigmoid(self.alpha), beta)

    @torch.no_grad()
    def hard(self) -> Tensor:
        """Return the weight on its grid: up where h is at least one half, that is alpha at least zero."""
        return self._weight(self.alpha >= 0)

    def _weight(self, up: Tensor) -> Tensor:
        codes = (self.floor + up).clamp(self.grid.low, self.grid.high)
        return (codes * self.scale).view(self.shape)
