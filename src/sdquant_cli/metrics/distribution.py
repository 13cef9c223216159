"""Distance between sets of features."""

import contextlib
import io
import warnings

import numpy as np


def frechet(features: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to features (N,D) (Heusel et al. 2017, eq. 6).

    Biased upwards where N is not many times D, and by more the smaller N is: compare equal N only.
    """
    from cleanfid.fid import frechet_distance

    first, second = features.astype(np.float64), reference.astype(np.float64)
    # it prints and warns where matrices are singular: the caller knows N, and says so
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distance = frechet_distance(
            first.mean(0), np.cov(first, rowvar=False), second.mean(0), np.cov(second, rowvar=False)
        )
    return max(0.0, float(distance))
