"""Layer sensitivity by a second-order expansion with the Fisher matrix for the Hessian.

Efficiency Meets Fidelity, eq. (9)-(10), for setting W_i to zero. With d_m = <dL_m/dW_i, W_i> of item m
and x = mean_m d_m, the printed score is |x - x^2 / 2|: the square of a mean. The empirical Fisher matrix,
mean_m g_m g_m^T, gives mean_m d_m^2 in its place: the mean of squares. The printed score is not monotone
in x, and depends on the scale of the loss: |x| > 1 deserves a warning.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..hooks import watching_outputs


@contextmanager
def collecting_terms(layers: Mapping[str, nn.Linear | nn.Conv2d]) -> Iterator[dict[str, Tensor]]:
    """Collect d_m (items) = <dL_m/dW, W> of the named layers in each backward pass within the context.

    A layer y = W x + b is linear in W, so d_m = <dL_m/dy_m, y_m - b>: one backward pass over the batch gives
    the term of every item, without weight gradients. Items lie along the first axis.
    """
    terms: dict[str, Tensor] = {}

    def watch_gradient(name: str, output: Tensor) -> None:
        value = output.detach()  # a hook that held the output itself would keep its whole graph alive
        output.register_hook(lambda gradient: terms.update({name: term(gradient, value, layers[name])}))

    with watching_outputs(layers, watch_gradient):
        yield terms


def term(gradient: Tensor, output: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
    """Return <dL_m/dy_m, y_m - b> (items) from one layer's output and its gradient, items first."""
    linear = output
    if layer.bias is not None:
        linear = linear - (layer.bias if isinstance(layer, nn.Linear) else layer.bias[:, None, None])
    return (gradient * linear).flatten(1).sum(dim=1, dtype=torch.float64)


def printed_score(d: Tensor) -> Tensor:
    """Return |x - x^2 / 2| (layers) of d (items, layers), x = mean_m d_m (eq. 10)."""
    x = d.mean(dim=0)
    return (x - 0.5 * x.square()).abs()


def fisher_score(d: Tensor) -> Tensor:
    """Return W^T F W = mean_m d_m^2 (layers) of d (items, layers), F the empirical Fisher matrix."""
    return d.square().mean(dim=0)


def ranking(names: list[str], values: Tensor) -> list[str]:
    """Return the names by value, highest first; equal values by name."""
    order = sorted(range(len(names)), key=lambda i: (-float(values[i]), names[i]))
    return [names[i] for i in order]
