"""Zero-points of activation tables in training, each as a share of its grid's codes.

So all move by the same part of the range that their grid covers, whatever its bits. The quantizer rounds them
to codes, and gradients pass the rounding unchanged (Bhalgat et al. 2020, LSQ+, section 3.2).
"""

import torch
from torch import Tensor, nn

from ..quant.modules import InputQuantizer


class TrainedZeroPoints:
    """The zero-points of all quantizers of a network that hold tables; `shares` are trained."""

    def __init__(self, network: nn.Module) -> None:
        self._zeros: list[nn.Parameter] = []
        self._highest: list[Tensor] = []
        for layer in network.modules():
            if not (isinstance(layer, InputQuantizer) and len(layer.activation_zero)):
                continue
            zero = layer.activation_zero = nn.Parameter(layer.activation_zero.clone())
            self._zeros.append(zero)
            highest = [layer.grid_of(row).high for row in range(len(zero))]
            self._highest.append(torch.tensor(highest, dtype=zero.dtype).to(zero.device))
        self.shares = torch._foreach_div([zero.detach() for zero in self._zeros], self._highest)

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients to zero-points that have one."""
        return [zero.grad for zero in self._zeros if zero.grad is not None]

    def forget_gradients(self) -> None:
        """Set all gradients to None."""
        for zero in self._zeros:
            zero.grad = None

    def give_gradients(self) -> None:
        """Give the shares their gradients, dL/d(share) = highest code x dL/dz."""
        for share, zero, highest in zip(self.shares, self._zeros, self._highest, strict=True):
            share.grad = None if zero.grad is None else zero.grad * highest

    @torch.no_grad()
    def write(self) -> None:
        """Set zero-points from their shares, which are kept within the grid."""
        for share, zero, highest in zip(self.shares, self._zeros, self._highest, strict=True):
            zero.copy_(share.clamp_(0, 1) * highest)
