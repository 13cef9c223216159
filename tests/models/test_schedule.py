"""How noisy latents are at a sampler's timesteps."""

import diffusers
import pytest
import torch

from sdquant_cli.models.schedule import log_snr, schedule_of


def test_it_is_signal_over_noise_at_trained_timesteps_and_linear_between():
    sampler = diffusers.DDIMScheduler(beta_schedule="scaled_linear")
    signal = sampler.alphas_cumprod.double()
    expected = (signal / (1 - signal)).log()
    assert torch.allclose(log_snr(sampler, [0.0, 500.0, 999.0]), expected[[0, 500, 999]])
    between = 0.75 * expected[500] + 0.25 * expected[501]
    assert float(log_snr(sampler, [500.25])) == pytest.approx(float(between))
    assert float(log_snr(sampler, [1500.0])) == float(log_snr(sampler, [999.0]))


def test_it_is_the_same_for_every_sampler_of_a_noise_schedule():
    first = diffusers.PNDMScheduler(beta_schedule="scaled_linear")
    second = diffusers.EulerDiscreteScheduler.from_config(first.config)
    for sampler in (first, second):
        sampler.set_timesteps(7)
    timesteps = schedule_of(second).timesteps
    assert torch.equal(log_snr(first, timesteps), log_snr(second, timesteps))


def test_flow_matching_has_straight_paths():
    sampler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    values = log_snr(sampler, [1000.0, 750.0, 500.0])
    assert float(values[2]) == pytest.approx(0)
    assert float(values[1]) == pytest.approx(2 * torch.tensor(1 / 3).log().item(), rel=1e-6)
    assert bool(values.isfinite().all())


def test_latents_of_noise_alone_have_a_finite_one():
    sampler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    assert bool(log_snr(sampler, [999.0]).isfinite())
