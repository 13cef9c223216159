import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sdquant_cli.metrics import pairs
from sdquant_cli.metrics.catalog import CATALOG, Form
from tests.fakes import noisy, pictures

CPU = torch.device("cpu")
CASES = [(reference, noisy(reference, deviation)) for reference in (pictures(3),) for deviation in (1, 4, 16)]


@pytest.mark.parametrize(("reference", "images"), CASES, ids=["1", "4", "16"])
def test_psnr_is_that_of_scikit_image(reference, images):
    found = pairs.psnr(CPU)(images, reference)
    expected = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(reference, images, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("reference", "images"), CASES, ids=["1", "4", "16"])
def test_ssim_is_that_of_scikit_image_on_luma(reference, images):
    """Luma rounded to integers, an 11x11 Gaussian window of deviation 1.5, population covariance."""

    def luma(picture):
        return (picture @ np.array([0.299, 0.587, 0.114])).round()

    def expected(a, b):
        return structural_similarity(
            luma(a), luma(b), data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )

    found = pairs.ssim(CPU)(images, reference)
    np.testing.assert_allclose(
        found, [expected(a, b) for a, b in zip(reference, images, strict=True)], atol=1e-4
    )


def test_identical_pictures_have_infinite_psnr_and_an_ssim_of_one():
    reference = pictures(2)
    assert np.isinf(pairs.psnr(CPU)(reference, reference)).all()
    np.testing.assert_allclose(pairs.ssim(CPU)(reference, reference), 1, atol=1e-9)


def test_psnr_of_one_changed_value():
    reference = pictures(1)
    changed = reference.copy()
    changed[0, 0, 0, 0] = changed[0, 0, 0, 0] ^ 1
    mse = 1 / (64 * 64 * 3)
    assert pairs.psnr(CPU)(changed, reference)[0] == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # the metric libraries'
@pytest.mark.parametrize("side", [64, 192])
def test_what_is_known_of_a_picture_and_itself_is_what_is_computed(weights, side):
    """To the last bit: stored numbers do not tell one from the other."""
    assert {name for name, metric in CATALOG.items() if metric.form is Form.PAIR} == set(pairs.OF_ITSELF)
    images = np.concatenate([pictures(2, side=side), np.zeros((1, side, side, 3), np.uint8)])
    made = {"psnr": pairs.psnr(CPU), "ssim": pairs.ssim(CPU), "lpips": pairs.lpips(weights, CPU)}
    for name, value in pairs.OF_ITSELF.items():
        assert made[name](images, images).tolist() == [value] * 3, name
