"""How much each layer matters: by gradients of the rounded network's error (eq. 10), or one at a time.

The paper does not name the loss of eq. (10), and the error against the floating-point network has no
gradient at the floating-point weights. Chosen here: the mean squared error of each item's prediction
against the floating-point one, its gradient taken at weights rounded to the target bits.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..metrics.ratios import energy
from ..models.layers import quantizable_layers
from ..quant.fisher import collecting_terms
from ..quant.grid import along_first_axis, round_to_grid
from ..quant.modules import LayerState
from ..quant.ranges import weight_scales
from ..quant.rows import Rows
from ..quant.state import grids
from ..quant.swap import swapped
from ..types import Bits
from .items import Batch, prediction


@torch.no_grad()
def round_weights(network: nn.Module, bits: Bits) -> None:
    """Round the weights of all quantizable layers, in place."""
    grid, _ = grids(bits)
    for layer in quantizable_layers(network).values():
        step = along_first_axis(weight_scales(layer.weight, grid), layer.weight)
        layer.weight.copy_(round_to_grid(layer.weight, step, 0.0, grid))


def item_terms(rounded: Any, batch: Batch, target: Tensor) -> Tensor:
    """d_m = <dL_m/dW, W> (items, layers), L_m the mean squared error of item m's prediction.

    `target` is the floating-point network's.
    """
    # gradients reach every layer through its input; the weights themselves need none
    x, tokens = batch.x.requires_grad_(), batch.conditioning.tokens.requires_grad_()
    layers = quantizable_layers(rounded)
    with collecting_terms(layers) as terms:
        predicted = prediction(rounded, batch)
        loss = (predicted - target).square().flatten(1).mean(dim=1).sum()
        torch.autograd.grad(loss, [x, tokens])
    return torch.stack([terms[name] for name in layers], dim=1)


class OneLayerAtATime:
    """The floating-point network with single layers put on their real grids."""

    def __init__(self, network: Any, rows: Rows, batches: Sequence[Batch]) -> None:
        self.network, self.rows, self.batches = network, rows, batches
        with torch.no_grad():
            self.targets = [prediction(network, batch) for batch in batches]

    def signal(self) -> Tensor:
        """|y|^2 (items) of the floating-point predictions."""
        return torch.cat([energy(target) for target in self.targets])

    def noise(self, name: str, state: LayerState) -> Tensor:
        """|y - y_q|^2 (items) with weights and inputs of one layer quantized."""
        with swapped(self.network, {name: state.to(self.targets[0].device)}, self.rows):
            return self._moved()

    def weight_noise(self, name: str, state: LayerState) -> Tensor:
        """|y - y_q|^2 (items) with the weights of one layer rounded, its inputs as they are."""
        weight = self.network.get_submodule(name).weight
        original = weight.data
        step = along_first_axis(state.weight_step.to(original), original)
        weight.data = round_to_grid(original, step, 0.0, state.weight_grid)
        try:
            return self._moved()
        finally:
            weight.data = original

    @torch.no_grad()
    def _moved(self) -> Tensor:
        """|y - y_q|^2 (items) of the network as it is now."""
        pairs = zip(self.batches, self.targets, strict=True)
        parts = [energy(prediction(self.network, b) - y) for b, y in pairs]
        return torch.cat(parts)
