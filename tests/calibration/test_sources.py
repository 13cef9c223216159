"""Batches of each source, on the embedded model's schedule with a UNet of one line."""

from functools import partial

import pytest
import torch
from torch import nn

from sdquant_cli.calibration.items import Items
from sdquant_cli.calibration.sources import (
    BatchContext,
    NoisedPictures,
    Pictures,
    TrajectoryBatches,
    add_noise,
    shares,
)
from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.conditioning import Conditioning, predict
from sdquant_cli.models.denoise import denoise
from sdquant_cli.models.noise import initial_noise, step_generators
from sdquant_cli.models.samplers import from_config
from sdquant_cli.models.schedule import schedule_of
from sdquant_cli.models.trajectory import Trajectory
from sdquant_cli.types import Scheduler
from tests import fakes


class Answer:
    def __init__(self, sample):
        self.sample = sample


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, timestep, encoder_hidden_states):
        return Answer(self.gain * x + encoder_hidden_states.mean((1, 2))[:, None, None, None])


def context(name=Scheduler.PNDM, steps=6, pictures=None, scale=3.0):
    g = torch.Generator().manual_seed(0)
    sampler = partial(fakes.sampler, name, steps)
    items = Items(
        x=torch.zeros(8, 4, 4, 4).half(),
        row=torch.zeros(8, dtype=torch.long),
        text=torch.arange(8) + 1,
        texts=Conditioning(torch.randn(9, 3, 5, generator=g).half()),
        timesteps=torch.tensor(schedule_of(sampler()).timesteps),
        guidance_scale=scale,
    )
    return BatchContext(items, 2, 7, torch.device("cpu"), Teacher(), sampler, scale, pictures)


@pytest.mark.parametrize("scale", [3.0, 0.5])
@pytest.mark.parametrize("name", [name for name in Scheduler if name is not Scheduler.FLOW_EULER])
def test_a_serial_round_is_the_floating_point_trajectory(name, scale):
    m = context(name, scale=scale)
    source, seen = TrajectoryBatches(m), []
    calls = len(m.sampler().timesteps)
    for iteration in range(calls):
        batch = source.batch(iteration)
        seen.append(batch)
        source.learn(predict(m.teacher, batch.x, batch.timestep, batch.conditioning).detach())
    expected = []
    noise = initial_noise((4, 4, 4), m.seed, [0, 1], "trajectories")
    path = Trajectory(m.sampler(), noise, step_generators(m.seed, [0, 1]))
    denoise(m.teacher, path, seen[0].conditioning, scale, lambda _, x: expected.append(x) or True)
    for call, batch in enumerate(seen):
        torch.testing.assert_close(batch.x[:2], expected[call], atol=1e-5, rtol=1e-5)
        assert len(batch.x) == len(batch.row) == len(batch.timestep) == 2 * batch.halves
        assert torch.equal(batch.x[:2], batch.x[-2:])
        assert len(batch.timestep.unique()) == 1
        assert float(batch.timestep[0]) == pytest.approx(float(m.sampler().timesteps[call]))


def test_serial_goes_on_in_the_middle_of_a_round_and_rounds_differ():
    m = context()
    source, batches = TrajectoryBatches(m), []
    for iteration in range(10):
        batches.append(source.batch(iteration))
        batch = batches[-1]
        source.learn(predict(m.teacher, batch.x, batch.timestep, batch.conditioning).detach())
    resumed = TrajectoryBatches(m).batch(9)
    assert torch.equal(resumed.x, batches[9].x)
    assert torch.equal(resumed.conditioning.tokens, batches[9].conditioning.tokens)
    assert not torch.equal(batches[0].x, batches[7].x)  # 7 calls in a round of 6 steps


@pytest.mark.parametrize("name", [Scheduler.PNDM, Scheduler.DDIM, Scheduler.EULER])
def test_noised_pictures_are_what_the_sampler_would_make_of_them(name):
    """diffusers' own add_noise and scale_model_input on the same picture and noise."""
    text = torch.tensor([3, 5, 2])
    m = context(name)
    pictures = Pictures(torch.randn(3, 4, 4, 4), text, m.items.texts)
    m = context(name, pictures=pictures)
    source = NoisedPictures(m)
    batch = source.batch(4)
    assert torch.equal(batch.x, NoisedPictures(m).batch(4).x)
    assert not torch.equal(batch.x, source.batch(5).x)
    sampler, row = m.sampler(), batch.row[:2]
    t = sampler.timesteps[[list(schedule_of(m.sampler()).rows).index(int(r)) for r in row]]
    clean, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    for i in range(2):
        theirs = sampler.add_noise(clean[i : i + 1], noise[i : i + 1], t[i : i + 1])
        sampler._step_index = None
        theirs = sampler.scale_model_input(theirs, t[i])
        ours = add_noise(clean[i : i + 1], noise[i : i + 1], shares(sampler, t[i : i + 1]))
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


def test_noised_pictures_of_flow_matching_are_what_its_sampler_would_make_of_them():
    sampler = from_config(Scheduler.FLOW_EULER, {"shift": 3.0})
    sampler.set_timesteps(7)
    clean, noise = torch.randn(7, 4, 4, 4), torch.randn(7, 4, 4, 4)
    theirs = sampler.scale_noise(clean, sampler.timesteps, noise)
    torch.testing.assert_close(add_noise(clean, noise, shares(sampler, sampler.timesteps)), theirs)


@pytest.mark.parametrize("name", ["IPNDMScheduler", "EDMEulerScheduler"])
def test_samplers_that_cannot_noise_pictures_are_refused(name):
    with pytest.raises(UsageProblem, match=f"--method parallel: {name} does not say"):
        shares(from_config(name, {}), torch.zeros(1))


def test_without_guidance_noised_pictures_are_with_their_text():
    text = torch.tensor([3, 5, 2])
    m = context(scale=1.0)
    m = context(scale=1.0, pictures=Pictures(torch.randn(3, 4, 4, 4), text, m.items.texts))
    batch = NoisedPictures(m).batch(0)
    assert len(batch.x) == len(batch.row) == 2
    assert all(
        (m.items.texts.tokens[text] == tokens).all((1, 2)).any() for tokens in batch.conditioning.tokens
    )
