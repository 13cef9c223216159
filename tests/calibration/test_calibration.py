import copy
import itertools
from functools import partial

import pytest
import torch
from torch import nn

from sdquant_cli.calibration.distillation import LossTargets, Training
from sdquant_cli.calibration.items import Items, prediction, shuffled
from sdquant_cli.calibration.losses import collecting_outputs, feature_loss, guided_loss, output_loss
from sdquant_cli.calibration.observer import (
    ENOUGH,
    Observed,
    QuantizerRules,
    initial_states,
    item_passes,
    observe,
    spread,
)
from sdquant_cli.calibration.recipes.serial_to_parallel import RECIPE
from sdquant_cli.calibration.sources import BatchContext, MixedLatents
from sdquant_cli.calibration.teacher import CachedTeacher, TeacherNetwork
from sdquant_cli.errors import SdquantError
from sdquant_cli.manifests import LossSpec, TrainSpec
from sdquant_cli.models.conditioning import Conditioning
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.swap import swap
from sdquant_cli.types import Bits, Dtype, Ranges, Tables, Train


class Answer:
    def __init__(self, sample):
        self.sample = sample


class Net(nn.Module):
    """Called and answering as a UNet does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 64, 3, padding=1)
        self.to_k = nn.Linear(5, 64)
        self.out = nn.Conv2d(64, 2, 1)

    def forward(self, x, timestep, encoder_hidden_states):
        scale = 1 + timestep.view(-1, 1, 1, 1) / 10
        hidden = torch.relu(self.conv(x * scale)) + self.to_k(encoder_hidden_states).mean(1)[:, :, None, None]
        return Answer(self.out(hidden))


ROWS = torch.tensor([9.0, 5.0, 1.0])


def items(count=12, scale=3.0):
    g = torch.Generator().manual_seed(0)
    return Items(
        x=torch.randn(count, 2, 4, 4, generator=g).half(),
        row=torch.tensor([0, 1] * (count // 2)),  # row 2 has no data
        text=torch.arange(count) % 3 + 1,
        texts=Conditioning(torch.randn(4, 3, 5, generator=g).half()),
        timesteps=ROWS,
        guidance_scale=scale,
    )


W4A8 = Bits(4, 8)


PLAIN = LossSpec(sensitive=0, blocks=0, guided=0)


def quantized(bits=W4A8, data=None, **choices):
    """A teacher, a student that shares its weights, what was observed, and the student's quantizers."""
    torch.manual_seed(0)
    teacher = Net().requires_grad_(False)
    rows = Rows(ROWS.tolist())
    student = copy.deepcopy(teacher, {id(p): p for p in teacher.parameters()})
    layers = dict(student.named_children())
    data = data or items()
    observed = observe(layers, item_passes(data, partial(prediction, student), torch.device("cpu")))
    rules = QuantizerRules(dict.fromkeys(layers, bits), has_one_row=lambda name: name == "to_k", **choices)
    states = initial_states(observed, rules)
    swap(student, states, rows, weights_on_grid=False)
    rows.follow(student)
    return teacher, student, observed, states


def train_spec(**changes):
    spec = TrainSpec(
        what=Train.WEIGHTS_AND_STEPS,
        rank=0,
        weight_rate=5e-5,
        step_rate=1e-4,
        accumulate=1,
        averaging=0,
        freezing=0,
        teacher=Dtype.FP32,
    )
    return spec.model_copy(update=changes)


def training(bits=W4A8, *, batch=4, iterations=8, targets=None, **changes):
    teacher, student, *_ = quantized(bits)
    context = BatchContext(items(), batch, 5, torch.device("cpu"), teacher, lambda: None, 3.0)
    targets = targets or LossTargets(PLAIN)
    live = TeacherNetwork(teacher, targets.watched)
    return Training(student, live, MixedLatents(context), targets, train_spec(**changes), iterations)


def test_batches_hold_each_latent_without_and_with_its_prompt():
    batch = items().batch([4, 7], torch.device("cpu"))
    data = items()
    assert torch.equal(batch.x[:2], batch.x[2:])
    assert torch.equal(batch.timestep, ROWS[torch.tensor([0, 1, 0, 1])])
    assert torch.equal(batch.conditioning.tokens[:2], data.texts.tokens[[0, 0]].float())
    assert torch.equal(batch.conditioning.tokens[2:], data.texts.tokens[data.text[[4, 7]]].float())


def test_an_epoch_visits_every_item_once_and_epochs_differ():
    epoch = torch.cat([shuffled(12, 4, i, seed=1) for i in range(3)])
    assert sorted(epoch.tolist()) == list(range(12))
    assert not torch.equal(epoch, torch.cat([shuffled(12, 4, i, seed=1) for i in range(3, 6)]))
    assert not torch.equal(epoch[:4], shuffled(12, 4, 0, seed=2))


def test_a_step_is_clipped_as_all_steps_are_where_all_are_alike():
    """Two values in 51,200 are far out: few of them are among those kept, but the ends are."""
    rows, g = 50, torch.Generator().manual_seed(0)
    layer = nn.Linear(400, 4)
    observed = Observed({"out": layer}, torch.arange(rows).repeat(ENOUGH), rows)
    for row in range(rows):
        x = torch.randn(2 * ENOUGH, 4, 400, generator=g)
        x[0, 0, 0], x[1, 0, 0] = 12.0, -12.0
        with observed.watching(torch.full((2 * ENOUGH,), row)):
            layer(x)
    steps = {
        tables: initial_states(observed, QuantizerRules({"out": Bits(8, 4)}, tables, Ranges.MSE))["out"]
        for tables in (Tables.SINGLE, Tables.PER_STEP)
    }
    one, many = (steps[tables].activation_step for tables in (Tables.SINGLE, Tables.PER_STEP))
    assert (len(one), len(many)) == (1, rows)
    assert many.mean() <= 1.05 * one.item()


def test_ranges_are_those_of_each_row_alone():
    teacher, _, observed, _ = quantized()
    data = items()
    for row in (0, 1):
        picks = [i for i in range(12) if data.row[i] == row]
        batch = data.batch(picks, torch.device("cpu"))
        hidden = {}
        handle = teacher.out.register_forward_pre_hook(lambda _, args, kept=hidden: kept.update(x=args[0]))
        teacher(batch.x, batch.timestep, batch.conditioning.tokens)
        handle.remove()
        assert observed.low["out"][row] == pytest.approx(hidden["x"].min().item(), rel=1e-5)
        assert observed.high["out"][row] == pytest.approx(hidden["x"].max().item(), rel=1e-5)
        kept = observed.values("out", row)
        assert len(kept) > 1000
        assert torch.isin(kept, hidden["x"]).all()
    assert observed.unseen_rows == 1


def test_the_values_kept_of_a_row_come_from_every_place_of_its_items():
    x = torch.arange(9216.0)
    first, second = spread(x, 0, 40), spread(x, 40, 40)
    assert torch.equal(torch.cat([first, second]), spread(x, 0, 80))
    assert len(torch.cat([first, second]).unique()) == 80
    counts = torch.histc(spread(x, 0, 640), bins=16, min=0, max=9216)
    assert counts.min() > 30


def test_rows_with_few_latents_take_in_their_neighbours():
    _, _, observed, states = quantized()
    assert observed.latents.tolist() == [6, 6, 0]
    assert ENOUGH > 12  # so every row here takes in all
    assert states["out"].activation_step.shape == (3,)
    assert len(states["out"].activation_step.unique()) == 1
    _, _, _, states = quantized(data=items(80))
    assert states["out"].activation_step[0] != states["out"].activation_step[1]
    assert states["out"].activation_step[2] == states["out"].activation_step[1]


def test_text_fed_layers_have_one_row_and_so_has_a_single_table():
    assert quantized()[3]["to_k"].activation_step.shape == (1,)
    _, student, _, states = quantized(tables=Tables.SINGLE)
    assert all(state.activation_step.shape == (1,) for state in states.values())
    batch = items().batch([0, 1], torch.device("cpu"))
    assert student(batch.x, batch.timestep, batch.conditioning.tokens).sample.shape == (4, 2, 4, 4)


def test_a_searched_range_lies_within_the_observed_one():
    *_, wide = quantized(Bits(4, 4))
    *_, found = quantized(Bits(4, 4), ranges=Ranges.MSE)
    assert (found["out"].activation_step < wide["out"].activation_step).all()


def test_losses_are_equations_11_and_12():
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    expected = sum((p - q) ** 2 for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 6
    assert output_loss(a, b).item() == pytest.approx(expected, rel=1e-5)
    teacher = {"x": torch.full((2,), 2.0), "y": torch.full((2,), 10.0)}
    student = {"x": torch.full((2,), 3.0), "y": torch.full((2,), 10.0)}
    assert feature_loss(student, teacher).item() == pytest.approx((1 / 4 + 0) / 2)


def test_hooks_leave_nothing_behind():
    teacher, *_ = quantized()
    with collecting_outputs(teacher, ["conv"]) as outputs:
        batch = items().batch([0], torch.device("cpu"))
        teacher(batch.x, batch.timestep, batch.conditioning.tokens)
        assert outputs["conv"].shape == (2, 64, 4, 4)
    assert not any(module._forward_hooks for module in teacher.modules())


def test_the_guided_loss_is_the_error_of_what_sampling_uses():
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    expected = sum(
        float(((a[i] + 3 * (a[i + 2] - a[i])) - (b[i] + 3 * (b[i + 2] - b[i]))).square().sum())
        for i in (0, 1)
    )
    assert guided_loss(a, b, 3.0).item() == pytest.approx(expected / 6, rel=1e-5)


@pytest.mark.parametrize("what", list(Train))
def test_training_brings_the_student_closer_to_the_teacher(what):
    run = training(
        Bits(3, 8), batch=6, iterations=60, what=what, rank=8, weight_rate=1e-3, step_rate=5e-3, averaging=0.9
    )
    original = [p.clone() for p in run.teacher.network.parameters()]
    everything = items().batch(range(12), torch.device("cpu"))
    before = float(run.loss(everything)[0].detach())
    for _ in range(60):
        run.step()
    run.finish()
    assert float(run.loss(everything)[0].detach()) < 0.9 * before
    assert all(p.grad is None for p in run.teacher.network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(original, run.teacher.network.parameters(), strict=True))
    shares = run.student.conv.weight is run.teacher.network.conv.weight
    assert shares == (what is not Train.WEIGHTS_AND_STEPS)


def test_every_loss_counts_with_its_weight():
    weights = LossSpec(sensitive=2, blocks=3, guided=0.5)
    run = training(targets=LossTargets(weights, sensitive=["conv"], blocks=["out"], guidance_scale=3.0))
    batch = items().batch([0, 3], torch.device("cpu"))
    inputs = (batch.x, batch.timestep, batch.conditioning.tokens)
    with (
        collecting_outputs(run.teacher.network, ["conv", "out"]) as a,
        collecting_outputs(run.student, ["conv", "out"]) as b,
    ):
        target, found = run.teacher.network(*inputs).sample, run.student(*inputs).sample
    expected = output_loss(found, target) + 0.5 * guided_loss(found, target, 3.0)
    for name, weight in (("conv", 2), ("out", 3)):
        expected = expected + weight * feature_loss({name: b[name]}, {name: a[name]})
    torch.testing.assert_close(run.loss(batch)[0], expected)


def test_accumulation_changes_memory_and_not_the_update():
    whole, parts = training(), training(accumulate=2)
    for run in (whole, parts):
        run.step()
    assert parts.losses == pytest.approx(whole.losses)
    for a, b in zip(whole.weights, parts.weights, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_scales_move_by_a_relative_rate_that_decays_to_zero():
    run = training(iterations=3, step_rate=0.01)
    sizes = [[scale.detach().clone() for scale in run.scales]]
    for _ in range(3):
        run.step()
        sizes.append([scale.detach().clone() for scale in run.scales])
    moved = [
        max(float((b / a).log().abs().max()) for a, b in zip(*pair, strict=True))
        for pair in itertools.pairwise(sizes)
    ]
    assert moved[0] == pytest.approx(0.01, rel=1e-3)  # Adam's first update is its rate
    assert moved[2] < 0.3 * moved[0]


@pytest.mark.parametrize(
    "choice",
    [{}, {"averaging": 0.9}, {"freezing": 0.01}, {"what": Train.LOW_RANK, "rank": 4}, {"what": Train.STEPS}],
)
def test_a_checkpoint_goes_on_exactly(choice, tmp_path):
    def trained(stop_at):
        run = training(weight_rate=3e-3, **choice)
        for _ in range(stop_at):
            run.step()
        return run

    whole, half = trained(8), trained(3)
    torch.save(half.state_dict(), tmp_path / "half.pt")
    resumed = trained(0)
    resumed.load_state_dict(torch.load(tmp_path / "half.pt", weights_only=True))
    for _ in range(5):
        resumed.step()
    for run in (whole, resumed):
        run.finish()
    assert resumed.losses == whole.losses
    for a, b in zip(whole.student.parameters(), resumed.student.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_not_a_number_names_layer_and_timestep():
    run = training()
    first = run.source.batch(0).timestep[0]
    with torch.no_grad():
        run.student.out.bias.fill_(float("nan"))
    with pytest.raises(SdquantError, match=rf"diverged at iteration 0.*in layer out at timestep {first:g}"):
        run.step()
    assert run.losses == []


def test_a_gradient_that_is_not_a_number_stops_before_it_is_applied():
    run = training()
    before = run.student.conv.weight.detach().clone()
    run.student.conv.weight.register_hook(lambda g: g * float("nan"))
    with pytest.raises(SdquantError, match="in the gradients"):
        run.step()
    assert torch.equal(run.student.conv.weight, before)


def test_the_default_method_trains_on_mixed_timesteps():
    assert RECIPE.source is MixedLatents
    batch = training(batch=6).source.batch(0)
    assert len(batch.timestep.unique()) > 1


def test_a_cached_teacher_answers_as_the_network_does():
    teacher, *_ = quantized()
    data, network = items(), TeacherNetwork(teacher, ["conv"])
    cache = CachedTeacher(network, 2 * len(data))
    assert not cache.complete
    for batch in data.batches(5, torch.device("cpu")):
        cache.run(batch)
    assert cache.complete
    batch = data.batch([7, 2, 11], torch.device("cpu"))
    for part in (batch, *batch.parts(3)):
        expected, cached = network.answer(part), cache.answer(part)
        torch.testing.assert_close(cached.prediction, expected.prediction)
        torch.testing.assert_close(cached.features["conv"], expected.features["conv"])


def test_a_cache_without_memory_keeps_nothing():
    teacher, *_ = quantized()
    data = items()
    cache = CachedTeacher(TeacherNetwork(teacher, ["conv"]), 2 * len(data), max_bytes=1000)
    for batch in data.batches(5, torch.device("cpu")):
        cache.run(batch)
    assert not cache.complete


@pytest.mark.parametrize(("scale", "count"), [(3.0, 24), (1.0, 12), (0.0, 12)])
def test_items_are_halved_without_guidance_and_parts_keep_a_latents_items_together(scale, count):
    ours = items(scale=scale)
    assert ours.count == count
    batch = ours.batch([4, 1, 7], torch.device("cpu"))
    assert len(batch.x) == 3 * batch.halves
    assert torch.equal(batch.x[-3:], ours.x[[4, 1, 7]].float())
    assert torch.equal(batch.conditioning.tokens[-3:], ours.texts.tokens[ours.text[[4, 1, 7]]].float())
    parts = batch.parts(2)
    latents = [(part.item % len(ours)).view(batch.halves, -1) for part in parts]
    assert torch.equal(torch.cat(latents, dim=1), torch.tensor([[4, 1, 7]]).expand(batch.halves, 3))
    assert all(torch.equal(ours.some(part.item, torch.device("cpu")).x, part.x) for part in parts)
