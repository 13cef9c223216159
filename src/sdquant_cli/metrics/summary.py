"""From values per picture to the numbers that are reported."""

import numpy as np

RESAMPLES = 1000


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% percentile-bootstrap interval of the mean of values (N)."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def feature_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine distance 1 - cos (N) of unit-length features (N,D) of picture pairs."""
    return 1 - (first * second).sum(axis=1)


def clip_score(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """CLIP score (N): 100 max(cos, 0) of unit-length features (N,D) (Hessel et al. 2021, eq. 1, w = 1)."""
    return 100 * np.clip((images * texts).sum(axis=1), 0, None)
