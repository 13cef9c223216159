"""Where each method's batches come from, on the embedded model's schedule with a UNet of one line."""

import pytest
import torch
from torch import nn

from sdquant_cli.errors import UsageProblem
from sdquant_cli.methods.items import Items
from sdquant_cli.methods.parallel import NoisedPictures, noised
from sdquant_cli.methods.published import METHODS
from sdquant_cli.methods.recipe import Material, Pictures
from sdquant_cli.methods.serial import Trajectories
from sdquant_cli.models.denoise import denoise
from sdquant_cli.models.load import find_model
from sdquant_cli.models.noise import initial_noise
from sdquant_cli.models.schedule import schedule_of
from sdquant_cli.stages.calibration_spec import recipe_of, spec_of
from sdquant_cli.stages.requests import CalibrateRequest
from sdquant_cli.types import Scheduler, Train


class Answer:
    def __init__(self, sample):
        self.sample = sample


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, timestep, encoder_hidden_states):
        return Answer(self.gain * x + encoder_hidden_states.mean((1, 2))[:, None, None, None])


def material(name=Scheduler.PNDM, steps=6, pictures=None):
    model, g = find_model("shapes"), torch.Generator().manual_seed(0)

    def sampler():
        fresh = model.scheduler(name)
        fresh.set_timesteps(steps)
        return fresh

    items = Items(
        x=torch.zeros(8, 4, 4, 4).half(),
        row=torch.zeros(8, dtype=torch.long),
        text=torch.arange(8) + 1,
        embeddings=torch.randn(9, 3, 5, generator=g).half(),
        timesteps=torch.tensor(schedule_of(model.scheduler(name), steps).timesteps),
    )
    return Material(items, 2, 7, torch.device("cpu"), Teacher(), sampler, 3.0, pictures)


@pytest.mark.parametrize("name", list(Scheduler))
def test_a_serial_round_is_the_floating_point_trajectory(name):
    m = material(name)
    source, seen = Trajectories(m), []
    calls = len(m.sampler().timesteps)
    for iteration in range(calls):
        batch = source.batch(iteration)
        seen.append(batch)
        source.learn(m.teacher(batch.x, batch.timestep, batch.context).sample.detach())
    expected, context = [], seen[0].context
    denoise(
        m.teacher,
        m.sampler(),
        initial_noise((4, 4, 4), m.seed, [0, 1], "trajectories"),
        context[2:],
        context[:1],
        3.0,
        lambda _, x: expected.append(x) or True,
    )
    for call, batch in enumerate(seen):
        torch.testing.assert_close(batch.x[:2], expected[call], atol=1e-5, rtol=1e-5)
        assert torch.equal(batch.x[:2], batch.x[2:])
        assert len(batch.timestep.unique()) == 1
        assert float(batch.timestep[0]) == pytest.approx(float(m.sampler().timesteps[call]))


def test_serial_goes_on_in_the_middle_of_a_round_and_rounds_differ():
    m = material()
    source, batches = Trajectories(m), []
    for iteration in range(10):
        batches.append(source.batch(iteration))
        source.learn(m.teacher(batches[-1].x, None, batches[-1].context).sample.detach())
    resumed = Trajectories(m).batch(9)
    assert torch.equal(resumed.x, batches[9].x)
    assert torch.equal(resumed.context, batches[9].context)
    assert not torch.equal(batches[0].x, batches[7].x)  # 7 calls in a round of 6 steps


def test_noised_is_equation_1():
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    found = noised(clean, noise, torch.tensor([0.25, 0.81]))
    for i, (a, b) in enumerate([(0.5, 0.75**0.5), (0.9, 0.19**0.5)]):
        torch.testing.assert_close(found[i], a * clean[i] + b * noise[i])


@pytest.mark.parametrize("name", [Scheduler.PNDM, Scheduler.DDIM, Scheduler.EULER])
def test_noised_pictures_are_what_the_sampler_would_make_of_them(name):
    """diffusers' own add_noise and scale_model_input on the same picture and noise."""
    text = torch.tensor([3, 5, 2])
    m = material(name)
    pictures = Pictures(torch.randn(3, 4, 4, 4), text, m.items.embeddings)
    m = material(name, pictures=pictures)
    source = NoisedPictures(m)
    batch = source.batch(4)
    assert torch.equal(batch.x, NoisedPictures(m).batch(4).x)
    assert not torch.equal(batch.x, source.batch(5).x)
    sampler, row = m.sampler(), batch.row[:2]
    t = sampler.timesteps[[list(schedule_of(m.sampler(), 6).rows).index(int(r)) for r in row]]
    clean, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    for i in range(2):
        theirs = sampler.add_noise(clean[i : i + 1], noise[i : i + 1], t[i : i + 1])
        sampler._step_index = None
        theirs = sampler.scale_model_input(theirs, t[i])
        ours = noised(clean[i : i + 1], noise[i : i + 1], source._alpha_bar[row[i : i + 1]].float())
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


def test_every_method_cites_its_source():
    assert list(METHODS) == ["serial-to-parallel", "serial", "parallel", "rtn"]
    assert all(recipe.cites for recipe in METHODS.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "magic"}, "--method magic: expected one of serial-to-parallel, serial"),
        (
            {"method": "rtn", "weight_rate": 1e-3},
            "--weight-rate: has no meaning with --method rtn; taken by serial",
        ),
        ({"method": "rtn", "iterations": 5}, "--iterations"),
        ({"images": "x"}, "--images: has no meaning with --method serial-to-parallel; taken by parallel"),
        ({"rank": 4}, "--rank: has no meaning with --train weights"),
        ({"train": "steps", "freezing": 0.1}, "--freezing: has no meaning with --train steps"),
    ],
)
def test_an_option_without_meaning_is_refused(fields, message):
    with pytest.raises(UsageProblem, match=message.replace("+", r"\+")):
        recipe_of(CalibrateRequest(**fields))


def test_a_spec_says_what_was_chosen_and_rtn_trains_nothing():
    request = CalibrateRequest(train=Train.LOW_RANK)
    spec = spec_of(request, recipe_of(request), 12, ranked=False, pictures=None)
    assert (spec.train.what, spec.train.rank, spec.iterations) == (Train.LOW_RANK, 32, 400)
    assert spec.loss.sensitive == 0  # no ranking, no L_sen
    request = CalibrateRequest(method="rtn")
    spec = spec_of(request, recipe_of(request), 12, ranked=True, pictures=None)
    assert (spec.train, spec.loss, spec.iterations) == (None, None, 0)
