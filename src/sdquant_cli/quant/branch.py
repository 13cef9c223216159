"""A low-rank branch beside a quantized weight (Li et al. 2025, SVDQuant, section 4.2).

W x becomes Q(W - L) Q(x) + L x with L = B A of rank r in 16 bits, so the grid holds only the residual, whose
largest values L has taken out. A convolution's branch is one of the same kernel to r channels, then 1 x 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .grid import Grid
from .layer_function import Convolution
from .weights import WeightQuantizer, weight_scales

ROUNDS = 8  # of decomposing and rounding in turn


class Branch(NamedTuple):
    """The factors of L = B A."""

    up: Tensor  # B (C_out,r)
    down: Tensor  # A (r,C_in,...)

    @property
    def weight(self) -> Tensor:
        """L in the weight's shape, fp32."""
        return (self.up.float() @ self.down.flatten(1).float()).view(len(self.up), *self.down.shape[1:])

    def output(self, x: Tensor, convolution: Convolution | None) -> Tensor:
        """Return L x for an input of the layer, in x's dtype; `convolution` None: a linear layer."""
        up, down = self.up.to(x.dtype), self.down.to(x.dtype)
        if convolution is None:
            return F.linear(F.linear(x, down), up)
        return F.conv2d(F.conv2d(x, down, None, *convolution), up[:, :, None, None])

    def to(self, device: torch.device) -> "Branch":
        """Return the branch on a device."""
        return Branch(self.up.to(device), self.down.to(device))


def of_rank(weight: Tensor, rank: int) -> Branch:
    """Return the nearest weight (C_out,...) of a rank by squared error (Eckart and Young 1936), in fp16.

    From the eigenvectors of the smaller of W W^T and W^T W: the same on every run, which randomized
    decompositions are not.
    """
    rows = weight.flatten(1).double()
    if len(rows) <= rows.shape[1]:
        up = torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -rank:]
        down = up.T @ rows
    else:
        down = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -rank:].T
        up = rows @ down.T
    balance = (up.norm(dim=0) / down.norm(dim=1).clamp_min(1e-12)).clamp_min(1e-12).sqrt()
    up, down = up / balance, down * balance[:, None]
    return Branch(up.half(), down.half().view(rank, *weight.shape[1:]))


def split_off(weight: Tensor, rank: int, grid: Grid, groups: int = 1) -> Branch:
    """Return the branch of a weight whose residual rounds with the least squared error.

    Rounding and decomposition alternate, each on what the other leaves (SVDQuant, section 4.2).
    """
    weight = weight.detach().float()
    best, least, rounded = of_rank(weight, rank), torch.inf, torch.zeros_like(weight)
    for _ in range(ROUNDS):
        branch = of_rank(weight - rounded, rank)
        residual = weight - branch.weight
        rounded = WeightQuantizer(weight_scales(residual, grid, groups), grid).values(residual)
        error = float((residual - rounded).double().square().sum())
        if error < least:
            best, least = branch, error
    return best
