import numpy as np
import pytest
from cleanfid import fid as cleanfid
from scipy.linalg import sqrtm

from sdquant_cli.metrics.distribution import frechet_distance, kernel_distance


def features(n, d, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(n, d)) @ np.diag(np.linspace(0.5, 2, d)) + shift).astype(np.float32)


def reference_frechet(a, b):
    """Heusel et al. 2017, eq. 6, with the matrix square root itself."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    difference = a.mean(0) - b.mean(0)
    return difference @ difference + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)


@pytest.mark.parametrize("n", [40, 1500])
def test_frechet_is_equation_6_and_clean_fids(n):
    a, b = features(n, 16, 0), features(n, 16, 1, shift=0.3)
    assert frechet_distance(a, b) == pytest.approx(reference_frechet(a, b), rel=1e-6)
    wide = [x.astype(np.float64) for x in (a, b)]
    theirs = cleanfid.frechet_distance(
        wide[0].mean(0), np.cov(wide[0], rowvar=False), wide[1].mean(0), np.cov(wide[1], rowvar=False)
    )
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)


def test_frechet_of_fewer_pictures_than_features():
    """A square root of a singular product fails, singular values do not; zeros beside change nothing."""
    a, b = features(5, 16, 0), features(5, 16, 1)
    padded = [np.pad(x, ((0, 0), (0, 4))) for x in (a, b)]
    assert np.isfinite(frechet_distance(a, b))
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_of_a_set_and_itself_is_zero():
    a = features(50, 8, 0)
    assert frechet_distance(a, a) < 1e-9


def test_frechet_shrinks_with_n_for_two_samples_of_one_distribution():
    assert frechet_distance(features(2000, 16, 0), features(2000, 16, 1)) < frechet_distance(
        features(50, 16, 0), features(50, 16, 1)
    )


def test_kernel_distance_is_its_double_loop():
    a, b = features(7, 5, 0), features(9, 5, 1, shift=0.5)

    def k(x, y):
        return (float(x @ y) / 5 + 1) ** 3

    within = sum(k(a[i], a[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    beyond = sum(k(b[i], b[j]) for i in range(9) for j in range(9) if i != j) / (9 * 8)
    between = sum(k(x, y) for x in a for y in b) / (7 * 9)
    assert kernel_distance(a, b) == pytest.approx(within + beyond - 2 * between, rel=1e-5)


def test_kernel_distance_in_blocks_is_the_mean_of_clean_fids_subsets(monkeypatch):
    a, b = features(300, 6, 0), features(300, 6, 1, shift=0.4)
    whole = kernel_distance(a, b)
    monkeypatch.setattr("sdquant_cli.metrics.distribution.BLOCK", 64)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-9)
    np.random.seed(0)
    assert cleanfid.kernel_distance(a, b, num_subsets=400, max_subset_size=150) == pytest.approx(
        whole, rel=0.05
    )
