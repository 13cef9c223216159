"""Each ratio against its definition on a few numbers."""

import numpy as np
import pytest
import torch

from sdquant_cli.metrics.ratios import (
    cosine,
    decibels,
    energy,
    feature_cosine,
    noise_to_signal,
    psnr,
    relative_error,
    snr,
)


def test_sqnr_is_the_ratio_of_sums_of_squares():
    y = torch.tensor([[[3.0, 4.0]], [[0.0, 5.0]]])
    assert energy(y).tolist() == [25, 25]
    ratio = noise_to_signal(torch.tensor([[0.2, 0.3], [0.0, 0.0]]), energy(y))
    assert ratio.tolist() == pytest.approx([0.01, 0])
    assert decibels(ratio[0].item()) == pytest.approx(20)
    assert decibels(0.0) is None


def test_drift_is_signal_to_noise_of_each_item():
    a = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]])
    b = torch.tensor([[[3.0, 3.5]], [[1.0, 0.0]]])
    found = snr(a, b)
    assert found[0] == pytest.approx(10 * np.log10(25 / 0.25))
    assert torch.isinf(found[1])
    assert cosine(a, b)[0] == pytest.approx((9 + 14) / (5 * np.sqrt(9 + 12.25)))


def test_psnr_is_that_of_the_mean_squared_error():
    reference = torch.zeros(2, 3, 2, 2)
    images = reference.clone()
    images[0, 0, 0, 0] = 12.0
    ratios = psnr(images, reference)
    assert ratios[0] == pytest.approx(10 * np.log10(255**2 / (144 / 12)))
    assert ratios[1] == torch.inf


def test_relative_error_is_summed_over_all_outputs_of_a_module():
    references = [torch.tensor([3.0, 4.0]), torch.tensor([[5.0]])]
    outputs = [torch.tensor([3.0, 3.0]), torch.tensor([[7.0]])]
    assert relative_error(outputs, references) == pytest.approx(5 / 50)
    assert relative_error([torch.zeros(2)], [torch.zeros(2)]) == 0
    with pytest.raises(ValueError, match="argument 2"):
        relative_error(outputs, references[:1])


def test_both_cosines_are_the_same_number():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 32, generator=g), torch.randn(5, 32, generator=g)
    np.testing.assert_allclose(cosine(a, b).numpy(), feature_cosine(a.numpy(), b.numpy()), rtol=1e-12)
