"""A low-rank update of a weight, W + B A (Hu et al. 2021; EfficientDM rounds the sum, as here)."""

import torch
from torch import Tensor, nn


class LowRankUpdate(nn.Module):
    """W + B A for a weight W (C_out,...); W itself at first, since B is zero."""

    def __init__(
        self, shape: torch.Size, rank: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        inputs = shape[1:].numel()
        rank = min(rank, shape[0], inputs)
        down = torch.randn(rank, inputs, generator=generator) / inputs**0.5
        self.shape = shape
        self.down = nn.Parameter(down.to(device))
        self.up = nn.Parameter(torch.zeros(shape[0], rank, device=device))

    def forward(self, weight: Tensor) -> Tensor:
        """Return W + B A."""
        return weight + (self.up @ self.down).view(self.shape)
