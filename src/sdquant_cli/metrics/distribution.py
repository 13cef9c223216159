"""Distances between two sets of features (N,D); small N biases Fréchet and makes KID noisy."""

import numpy as np

BLOCK = 1024  # rows at a time in sums over all pairs


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Return the Fréchet distance between Gaussians fitted to both sets (Heusel et al. 2017, eq. 6).

    |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)). With C = A^T A (A: centred features over sqrt(N - 1)), the
    last trace is the sum of singular values of A1 A2^T: no matrix square root, which fails where there
    are fewer pictures than features, and exactly zero for a set and itself up to rounding.
    """
    first, second = _centred(features), _centred(reference)
    difference = features.mean(0, dtype=np.float64) - reference.mean(0, dtype=np.float64)
    cross = np.linalg.svd(_factor(first) @ _factor(second).T, compute_uv=False).sum()
    traces = np.square(first).sum() + np.square(second).sum()
    return max(0.0, float(difference @ difference + traces - 2 * cross))


def _centred(features: np.ndarray) -> np.ndarray:
    """Return A (N,D) such that A^T A is the covariance."""
    wide = features.astype(np.float64)
    return (wide - wide.mean(0)) / np.sqrt(len(wide) - 1)


def _factor(a: np.ndarray) -> np.ndarray:
    """Return a matrix of at most D rows with the same A^T A."""
    return np.asarray(np.linalg.qr(a, mode="r")) if len(a) > a.shape[1] else a


def kernel_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """Return KID: unbiased squared MMD with k(x,y) = (x.y / D + 1)^3 (Binkowski et al. 2018, eq. 3-4).

    All pairs are used instead of random subsets, so every run gives the same value. It is unbiased, so it may
    be below zero; for a set and itself, or a paired one, it is, since equal pairs enter the cross term only.
    """
    n, m = len(features), len(reference)
    within = _kernel_sum(features, features, diagonal=False) / (n * (n - 1))
    beyond = _kernel_sum(reference, reference, diagonal=False) / (m * (m - 1))
    return within + beyond - 2 * _kernel_sum(features, reference, diagonal=True) / (n * m)


def _kernel_sum(first: np.ndarray, second: np.ndarray, *, diagonal: bool) -> float:
    first, second = first.astype(np.float64), second.astype(np.float64)
    total = 0.0
    for start in range(0, len(first), BLOCK):
        values = (first[start : start + BLOCK] @ second.T / first.shape[1] + 1) ** 3
        total += values.sum()
        if not diagonal:
            total -= np.diagonal(values, offset=start).sum()
    return total
