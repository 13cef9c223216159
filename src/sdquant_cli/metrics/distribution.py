"""Distance between sets of features."""

import contextlib
import sys

import numpy as np


def frechet(features: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to features (N,D) (Heusel et al. 2017, eq. 6)."""
    from cleanfid.fid import frechet_distance

    first, second = features.astype(np.float64), reference.astype(np.float64)
    with contextlib.redirect_stdout(sys.stderr):  # it prints where matrices are nearly singular
        distance = frechet_distance(
            first.mean(0), np.cov(first, rowvar=False), second.mean(0), np.cov(second, rowvar=False)
        )
    return max(0.0, float(distance))
