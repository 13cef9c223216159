"""Bits per layer, from a sensitivity ranking or within a budget of weight bits.

The ranking decides as in Efficiency Meets Fidelity, section 4.2; the budget by an integer program, as in
MixDQ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, kron

from ..types import Bits

SHARE = 0.05  # of the layers, at either end of the ranking
WIDTHS = tuple(range(2, 9))  # bits that a weight may have


def extremes(ranking: Sequence[str], share: float = SHARE) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the most and the least sensitive layers, `share` of all each, rounded to nearest (13 of 258)."""
    count = round(share * len(ranking))
    return tuple(ranking[:count]), tuple(ranking[len(ranking) - count :])


def mixed_bits(
    layers: Sequence[str], bits: Bits, top: Sequence[str], bottom: Sequence[str]
) -> dict[str, Bits]:
    """Return the bits of every layer.

    Sensitive ones get W max(W,8) and A 2A (at most 16), insensitive ones A max(A/2, 4), never more than A.
    """
    high = Bits(max(bits.weights, 8), min(2 * bits.activations, 16))
    low = Bits(bits.weights, min(max(bits.activations // 2, 4), bits.activations))
    special = {**dict.fromkeys(bottom, low), **dict.fromkeys(top, high)}
    return {name: special.get(name, bits) for name in layers}


def ends(layers: Sequence[str]) -> tuple[str, str]:
    """Return the first and the last of all layers, which hold a thousandth of the weights or less."""
    return layers[0], layers[-1]


@dataclass(frozen=True)
class LayerBits:
    """The bits of a layer, and the numbers that they are weighted with."""

    weight_bits: int
    activation_bits: float  # mean over timesteps
    weights: int
    positions: int  # at which each weight is multiplied, in a call of one item
    inputs: int  # values read in that call
    extra: int = 0  # bits of groups and of a branch
    branch: int = 0  # weights of a branch, of 16 bits


def average_bits(layers: Sequence[LayerBits]) -> dict[str, float]:
    """Return mean bits by named weightings; multiplications and elements are those of a call."""
    weights = np.array([layer.weight_bits for layer in layers], dtype=np.float64)
    activations = np.array([layer.activation_bits for layer in layers], dtype=np.float64)
    number = np.array([layer.weights for layer in layers], dtype=np.float64)
    positions = np.array([layer.positions for layer in layers], dtype=np.float64)
    inputs = np.array([layer.inputs for layer in layers], dtype=np.float64)
    extra = sum(layer.extra for layer in layers)
    branches = np.array([16 * layer.branch for layer in layers], dtype=np.float64)
    averages = {
        "weights, by layers": weights.mean(),
        "weights, by parameters": weights @ number / number.sum(),
        "weights with groups and branches, by parameters": (weights @ number + extra) / number.sum(),
        "activations, by layers": activations.mean(),
        "weights, by multiplications": positions @ (weights * number + branches) / (positions @ number),
        "activations, by elements": activations @ inputs / inputs.sum(),
    }
    if not extra:
        del averages["weights with groups and branches, by parameters"]
    return {name: float(value) for name, value in averages.items()}


@dataclass(frozen=True)
class Allocation:
    """Weight bits of every layer within a budget, and the predicted noise-to-signal ratio."""

    widths: tuple[int, ...]
    noise: float


def noise_by_width(noise: np.ndarray, errors: np.ndarray, measured: int) -> np.ndarray:
    """Return the output noise of every layer at every width (layers, widths), from one measurement of each.

    `noise` (layers) is the output's noise with that layer's weights at `measured` bits, `errors` (layers,
    widths) is |W - Q_b(W)|^2. To second order the noise of a small change dW is dW^T H dW; rounding errors
    have no preferred direction, so H acts as a number per layer, noise / error, and errors do the rest.
    """
    error = errors[:, WIDTHS.index(measured)]
    response = np.zeros_like(noise)  # stays 0 where there is no error: nothing to round
    np.divide(noise, error, out=response, where=error > 0)
    return response[:, None] * errors


def allocate(cost: np.ndarray, parameters: np.ndarray, budget: int) -> Allocation:
    """Return the widths of least total cost whose weights take at most `budget` bits.

    min sum_lb c_lb cost_lb  over binary c_lb  with  sum_b c_lb = 1  and  sum_lb c_lb b n_l <= budget,
    solved to optimality. `cost` is (layers, widths), `parameters` (layers). The noises of single
    layers are assumed to add, as independent ones do. Raises ValueError for a budget below two bits a weight.
    """
    if budget < smallest_budget(parameters):
        raise ValueError("the budget is smaller than the smallest allocation")
    layers = len(parameters)
    unit = int(np.gcd.reduce(parameters))  # whole numbers small enough for the solver's tolerances
    size = np.outer(parameters // unit, WIDTHS)
    uniform = min(budget // int(parameters.sum()), WIDTHS[-1])
    uniform_cost = cost[:, WIDTHS.index(uniform)].sum() or 1.0  # the solver stops at an absolute gap of 1e-6
    solved = milp(
        cost.ravel() * (1e6 / uniform_cost),
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(kron(np.eye(layers), np.ones((1, len(WIDTHS)))), 1, 1),
            LinearConstraint(csr_array(size.reshape(1, -1)), -np.inf, budget // unit),
        ],
        options={"mip_rel_gap": 0},
    )
    if solved.x is None:
        raise RuntimeError(f"the integer program failed: {solved.message}")
    choice = solved.x.reshape(cost.shape).argmax(axis=1)
    rows = np.arange(layers)
    assert size[rows, choice].sum() <= budget // unit
    return Allocation(tuple(WIDTHS[i] for i in choice), float(cost[rows, choice].sum()))


def smallest_budget(parameters: np.ndarray) -> int:
    """Return the bits of all weights at the smallest width."""
    return WIDTHS[0] * int(parameters.sum())
