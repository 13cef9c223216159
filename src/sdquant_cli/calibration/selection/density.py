"""Number of latents from each step as features decide: temporal distribution alignment of EDA-DM.

A step has more weight the more steps have features near its own (density) and the further all others
point away from it (variety). There are T steps; a feature map is (items, positions, C).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models.noise import generator


def differences(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return sums of (f_t - f_t')^2, and of 1 - cos over C, both (T,T) fp64, of T maps (items,P,C).

    (EDA-DM, TDAC: the terms of density and variety.) Sums over other items may be added.
    """
    steps = len(features)
    squared, angular = torch.zeros(2, steps, steps, dtype=torch.float64)
    for item in range(len(features[0])):  # one at a time: memory
        x = torch.stack([f[item] for f in features]).double()
        flat, unit = x.flatten(1), F.normalize(x, dim=2).flatten(1)
        squared += torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()
        angular += x.shape[1] - unit @ unit.T
    return squared, angular


def radius_of(distance: Tensor, share: float) -> float:
    """Return the quantile `share` of distances (T,T) between different steps; 0 if there is one step.

    This is ours: the published r = 0.3 is in units of SD v1's features.
    """
    steps = len(distance)
    pairs = distance[tuple(torch.triu_indices(steps, steps, 1))]
    return float(pairs.quantile(share)) if len(pairs) else 0.0


def density(distance: Tensor, radius: float) -> Tensor:
    """Return D_t (T), the number of other steps within `radius` of t, from mean squares (T,T) (EDA-DM)."""
    near = (distance <= radius).double().fill_diagonal_(0)
    return near.sum(1)


def variety(angular: Tensor) -> Tensor:
    """Return V_t (T), the sum over t' != t of sums (T,T) of 1 - cos(f_t, f_t') (EDA-DM, TDAC)."""
    return angular.clone().fill_diagonal_(0).sum(1)


def weights(dense: Tensor, varied: Tensor, balance: float) -> Tensor:
    """Return w_t = D_t + lambda V_t (T), each scaled to 0..1, or 0 if it is constant (EDA-DM, TDAC)."""

    def scaled(x: Tensor) -> Tensor:
        spread = x.max() - x.min()
        return (x - x.min()) / spread if spread > 0 else torch.zeros_like(x)

    return scaled(dense) + balance * scaled(varied)


def counts(weight: Tensor, total: int) -> Tensor:
    """Return n_t = round(p_t N) (T) int64, p = w / sum w, adjusted to sum to N = `total` (EDA-DM, TDAC).

    Missing latents go to the largest n_t, one to each, the first of equal ones; surplus latents are removed
    one by one from the last steps that have any. Weights that are all zero are equal.
    """
    weight = weight if weight.sum() > 0 else torch.ones_like(weight)
    count = (weight / weight.sum() * total).round().long()
    missing = total - int(count.sum())  # each was rounded by half at most: no more than half of the steps
    if missing >= 0:
        count[count.argsort(descending=True, stable=True)[:missing]] += 1
    else:
        count[count.nonzero().flatten()[missing:]] -= 1
    return count


def assigned(count: Tensor, seed: int) -> tuple[int, ...]:
    """Return one step for each of N prompts: the multiset of `count` (T), shuffled (EDA-DM, TDAC)."""
    steps = torch.repeat_interleave(count)
    order = torch.randperm(len(steps), generator=generator("density", seed, 0))
    return tuple(steps[order].tolist())
