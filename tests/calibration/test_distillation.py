"""Distillation: what it learns, how fast, and that it resumes exactly."""

import itertools

import pytest
import torch

from sdquant_cli.calibration.distillation import LossTargets
from sdquant_cli.calibration.losses import (
    collecting_outputs,
    energies,
    feature_loss,
    guided_loss,
    output_loss,
)
from sdquant_cli.calibration.shares import Share, shares
from sdquant_cli.calibration.sources import MixedLatents
from sdquant_cli.errors import SdquantError
from sdquant_cli.manifests import LossSpec
from sdquant_cli.methods.serial_to_parallel import RECIPE
from sdquant_cli.types import Bits, Train
from tests.calibration.toy import items, training


def whole(picks) -> Share:
    """All of a batch, as one process has it."""
    return next(shares(items().batch(picks, torch.device("cpu")), 1))


@pytest.mark.parametrize("what", list(Train))
def test_training_brings_the_student_closer_to_the_teacher(what):
    run = training(
        Bits(3, 8), batch=6, iterations=60, what=what, rank=8, weight_rate=1e-3, step_rate=5e-3, averaging=0.9
    )
    original = [p.clone() for p in run.teacher.network.parameters()]
    everything = whole(range(12))
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
        expected = expected + weight * feature_loss(b, a, [name], energies(a))
    torch.testing.assert_close(run.loss(whole([0, 3]))[0], expected)


@pytest.mark.parametrize("tf32", [None, True])
def test_products_of_an_iteration_are_in_tf32_where_the_spec_says_so(tf32, monkeypatch):
    run, seen = training(tf32=tf32), []
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    loss = run.loss
    monkeypatch.setattr(run, "loss", lambda part: seen.extend(b.allow_tf32 for b in backends) or loss(part))
    run.step()
    assert seen == [bool(tf32)] * 2
    assert [backend.allow_tf32 for backend in backends] == before


def test_an_iteration_reads_the_device_once(monkeypatch):
    run, reads = training(accumulate=2), []
    read = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(len(tensor)) or read(tensor))
    monkeypatch.setattr(torch.Tensor, "__float__", None)
    monkeypatch.setattr(torch.Tensor, "item", None)
    run.step()
    assert reads[-1] == 2  # the loss, and whether gradients are numbers


def test_accumulation_changes_memory_and_not_the_update():
    at_once, parts = training(), training(accumulate=2)
    for run in (at_once, parts):
        run.step()
    assert parts.losses == pytest.approx(at_once.losses)
    for a, b in zip(at_once.weights, parts.weights, strict=True):
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


@pytest.mark.parametrize(("by_layer", "share"), [(None, 1), (True, 7 / 127)])
def test_weights_of_finer_grids_move_by_as_much_less_where_the_spec_says_so(by_layer, share):
    bits = {"conv": Bits(8, 8), "to_k": Bits(4, 8), "out": Bits(3, 8)}
    run = training(bits, weight_rate=1e-3, rate_by_layer=by_layer)
    before = {name: layer.weight.detach().clone() for name, layer in run.layers.items()}
    run.step()
    moved = {name: (layer.weight - before[name]).abs().max().item() for name, layer in run.layers.items()}
    expected = {"conv": 1e-3 * share, "to_k": 1e-3, "out": 1e-3}  # Adam's first update is its rate
    assert moved == pytest.approx(expected, rel=1e-2)


def test_zero_points_move_within_their_grids_and_bring_the_student_closer():
    losses = []
    for zero_points in (None, True):
        run = training(Bits(8, 4), iterations=60, what=Train.STEPS, step_rate=5e-3, zero_points=zero_points)
        zeros = [layer.activation_zero for layer in run.layers.values()]
        before = [zero.detach().clone() for zero in zeros]
        for _ in range(60):
            run.step()
        moved = [not torch.equal(a, b) for a, b in zip(before, zeros, strict=True)]
        assert any(moved) == bool(zero_points)
        assert all(bool(((zero >= 0) & (zero <= 15)).all()) for zero in zeros)
        losses.append(float(run.loss(whole(range(12)))[0].detach()))
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"averaging": 0.9},
        {"zero_points": True},
        {"freezing": 0.01},
        {"what": Train.LOW_RANK, "rank": 4},
        {"what": Train.STEPS},
    ],
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
