"""Layer sensitivity by a second-order expansion with the Fisher matrix for the Hessian.

Efficiency Meets Fidelity, eq. (9)-(10): S_i = |g^T W - (1/2) (mean_m g_m^T W)^2| for setting W_i to
zero. With d_m = <dL_m/dW_i, W_i> per sample and x = mean_m d_m, the printed score is |x - x^2 / 2|.
It is not monotone in x, and depends on the scale of the loss: |x| > 1 deserves a warning.
"""

import torch
from torch import Tensor


def first_order(weights: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[str, float]:
    """x_i = <dL/dW_i, W_i> for each layer."""
    return {
        name: float((gradients[name].double() * weight.double()).sum()) for name, weight in weights.items()
    }


def scores(x: Tensor) -> Tensor:
    """|x - x^2 / 2| (eq. 10)."""
    return (x - 0.5 * x.square()).abs()


def ranking(names: list[str], values: Tensor) -> list[str]:
    """Names by value, highest first; equal values by name."""
    order = sorted(range(len(names)), key=lambda i: (-float(values[i]), names[i]))
    return [names[i] for i in order]


def mean_of_slices(slices: Tensor, counts: Tensor) -> Tensor:
    """Mean over samples (layers,) of per-slice means (slices, layers) with `counts` samples each."""
    weight = counts.double() / counts.sum()
    return torch.einsum("s,sl->l", weight, slices.double())
