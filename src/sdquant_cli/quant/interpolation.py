"""Activation tables for timesteps that were not calibrated, interpolated between those that were.

A table says for each row from where to where a layer's inputs reach. Between two rows that range moves
linearly in the logarithm of the signal-to-noise ratio (log-SNR), which tells how noisy a latent is whatever
the schedule; beyond the first and the last row it stays as it is there. Both ends of the range move, and the
scale and the zero-point are those of the range: a value that moves linearly too stays within it. Rows may
have grids of other bits, which ranges do not depend on.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .correction import Correction
from .relaxing import RelaxedRows, bits_of_rows
from .state import SavedLayer, State


@dataclass(frozen=True)
class Interpolation:
    """The weights of calibrated rows in those of other timesteps."""

    weights: Tensor  # (S,R) fp64, rows sum to one

    @classmethod
    def between(cls, calibrated: Tensor, other: Tensor) -> "Interpolation":
        """Return the weights for log-SNRs `calibrated` (R), which differ, and `other` (S)."""
        x, order = calibrated.double().sort()
        weights = torch.zeros(len(other), len(x), dtype=torch.float64)
        row = torch.arange(len(other))
        if len(x) == 1:
            return cls(weights + 1)
        upper = torch.searchsorted(x, other.double()).clamp(1, len(x) - 1)
        share = ((other.double() - x[upper - 1]) / (x[upper] - x[upper - 1])).clamp(0, 1)
        weights[row, order[upper - 1]] = 1 - share
        weights[row, order[upper]] += share
        return cls(weights)

    def state(self, state: State, before: RelaxedRows | None, after: RelaxedRows | None) -> State:
        """Return a state with tables for the other timesteps; relaxed rows were `before` and are `after`.

        Layers with one entry for all timesteps, or none, stay as they are.
        """
        rows = self.weights.shape[1]
        changed = {name: layer for name, layer in state.items() if len(layer.activation_step) == rows > 1}
        return state | {name: self._layer(layer, before, after) for name, layer in changed.items()}

    def _layer(self, layer: SavedLayer, before: RelaxedRows | None, after: RelaxedRows | None) -> SavedLayer:
        count, rows = self.weights.shape
        step, zero = layer.activation_step.double(), layer.activation_zero.double()
        low = self.weights @ (-zero * step)
        high = self.weights @ ((_highest(layer, rows, before) - zero) * step)
        highest = _highest(layer, count, after)
        scale = (high - low) / highest
        zero = (-low / scale).round().clamp(min=0).minimum(highest)
        return replace(layer, activation_step=scale.float(), activation_zero=zero.to(torch.int32))

    def correction(self, correction: Correction) -> Correction:
        """Return a correction of the output at the other timesteps."""
        parts = (correction.slope, correction.bias, correction.std)
        return Correction(*((self.weights @ part.double()).float() for part in parts))


def _highest(layer: SavedLayer, rows: int, relaxed: RelaxedRows | None) -> Tensor:
    """Return the highest code of each row, fp64."""
    bits = bits_of_rows(layer.bits.activations, rows, relaxed)
    return 2.0 ** bits.double() - 1
