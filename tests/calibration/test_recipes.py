"""Where each method's batches come from, on the embedded model's schedule with a UNet of one line."""

import re
from functools import partial

import pytest
import torch
from torch import nn

from sdquant_cli.calibration.items import Items
from sdquant_cli.calibration.recipes.published import METHODS
from sdquant_cli.calibration.resolve import recipe_of, spec_of
from sdquant_cli.calibration.sources import (
    BatchContext,
    NoisedPictures,
    Pictures,
    TrajectoryBatches,
    noised,
    shares,
)
from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.conditioning import Conditioning, predict
from sdquant_cli.models.denoise import denoise
from sdquant_cli.models.noise import initial_noise, step_generators
from sdquant_cli.models.samplers import from_config
from sdquant_cli.models.schedule import schedule_of
from sdquant_cli.models.trajectory import Trajectory
from sdquant_cli.options.requests import CalibrateRequest
from sdquant_cli.types import Relax, Scheduler, Train
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
        ours = noised(clean[i : i + 1], noise[i : i + 1], shares(sampler, t[i : i + 1]))
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


def test_noised_pictures_of_flow_matching_are_what_its_sampler_would_make_of_them():
    sampler = from_config(Scheduler.FLOW_EULER, {"shift": 3.0})
    sampler.set_timesteps(7)
    clean, noise = torch.randn(7, 4, 4, 4), torch.randn(7, 4, 4, 4)
    theirs = sampler.scale_noise(clean, sampler.timesteps, noise)
    torch.testing.assert_close(noised(clean, noise, shares(sampler, sampler.timesteps)), theirs)


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


def test_every_method_cites_its_source():
    published = ["eda-dm", "pqd", "q-diffusion", "ptq4dm", "pcr"]
    assert list(METHODS) == ["serial-to-parallel", "serial", "parallel", *published, "rtn"]
    assert all(recipe.cites for recipe in METHODS.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "magic"}, "--method magic: expected one of serial-to-parallel, serial"),
        (
            {"method": "rtn", "weight_rate": 1e-3},
            "--weight-rate: is not supported by --method rtn .supported by: serial",
        ),
        ({"method": "rtn", "iterations": 5}, "--iterations"),
        (
            {"images": "x"},
            "--images: is not supported by --method serial-to-parallel .supported by: parallel",
        ),
        ({"rank": 4}, "--rank: has no effect with --train weights"),
        ({"train": "steps", "freezing": 0.1}, "--freezing: has no effect with --train steps"),
    ],
)
def test_an_option_without_meaning_is_refused(fields, message):
    with pytest.raises(UsageProblem, match=re.escape(message)):
        recipe_of(CalibrateRequest(**fields))


def test_a_spec_says_what_was_chosen_and_rtn_trains_nothing():
    request = CalibrateRequest(train=Train.LOW_RANK)
    spec = spec_of(request, recipe_of(request), 12, ranked=False, pictures=None)
    assert (spec.train.what, spec.train.rank, spec.iterations) == (Train.LOW_RANK, 32, 400)
    assert spec.loss.sensitive == 0  # no ranking, no L_sen
    request = CalibrateRequest(method="rtn")
    spec = spec_of(request, recipe_of(request), 12, ranked=True, pictures=None)
    assert (spec.train, spec.loss, spec.iterations) == (None, None, 0)


def test_rates_are_the_recipes_unless_the_request_names_them():
    for method in ("serial", "parallel"):
        recipe, request = METHODS[method], CalibrateRequest(method=method, step_rate=0.5)
        train = spec_of(request, recipe, 12, ranked=False, pictures=None).train
        assert (train.weight_rate, train.step_rate) == (recipe.weight_rate, 0.5)
    assert METHODS["serial"].weight_rate < METHODS["parallel"].weight_rate


@pytest.mark.parametrize(
    ("bits", "share"), [("w4a8", 1), ("w3a8", 1), ("w4a4", 1), ("w6a8", 7 / 31), ("w8a8", 7 / 127)]
)
def test_weights_of_a_finer_grid_move_by_as_much_less(bits, share):
    request = CalibrateRequest(bits=bits)
    recipe = recipe_of(request)
    train = spec_of(request, recipe, 12, ranked=False, pictures=None).train
    assert train.weight_rate == recipe.weight_rate * share
    request = CalibrateRequest(bits=bits, weight_rate=0.5)
    assert spec_of(request, recipe, 12, ranked=False, pictures=None).train.weight_rate == 0.5


def test_the_default_relaxes_the_last_steps_where_steps_have_rows():
    def relaxed(**flags):
        request = CalibrateRequest(**flags)
        return spec_of(request, recipe_of(request), 12, ranked=False, pictures=None).relax

    assert relaxed() is relaxed(method="pcr") is Relax.LAST
    assert relaxed(relax="first") is Relax.FIRST
    for without in ({"relax": "none"}, {"tables": "single"}, {"bits": "w4a4"}, {"method": "rtn"}):
        assert relaxed(**without) is None
    assert relaxed(bits="w4a4", relax="last") is Relax.LAST


@pytest.mark.parametrize(
    ("fields", "iterations"),
    [
        ({}, 100),  # 24 items, forward, backward as two, the teacher's
        ({"batch_size": 6}, 200),
        ({"method": "eda-dm"}, 600),  # 4 items, and the teacher's layers
        ({"method": "q-diffusion"}, 320),  # 8 items, and a quarter of the iterations again
        ({"method": "pqd"}, 100),  # 32 items, the teacher's answers are there
    ],
)
def test_iterations_follow_from_what_they_may_cost(fields, iterations):
    request = CalibrateRequest(forwards=9600, **fields)
    recipe = recipe_of(request)
    assert spec_of(request, recipe, 12, ranked=False, pictures=None).iterations == iterations
    with pytest.raises(UsageProblem, match="replaces --iterations"):
        recipe_of(CalibrateRequest(forwards=9600, iterations=5, **fields))
