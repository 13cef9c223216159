"""Data parallelism: shares of ranks add up to one process's batch, and so do losses and gradients."""

import pytest
import torch

from sdquant_cli import ranks
from sdquant_cli.calibration.distillation import LossTargets
from sdquant_cli.calibration.shares import follow_the_first, join, shares
from sdquant_cli.manifests import LossSpec
from tests.calibration.toy import CPU, items, training
from tests.test_ranks import ended, started

WEIGHTS = LossSpec(sensitive=2, blocks=3, guided=0.5)
TARGETS = LossTargets(WEIGHTS, sensitive=["conv"], blocks=["out"], guidance_scale=3.0)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_latent_is_in_one_share(monkeypatch, count, accumulate):
    batch = items().batch(range(5), CPU)
    of_latent, weight = torch.zeros(10), 0.0
    for rank in range(count):
        monkeypatch.setattr("sdquant_cli.calibration.shares.current", lambda r=rank: ranks.Ranks(r, count))
        for share in shares(batch, accumulate):
            torch.testing.assert_close(share.batch.x, batch.x[share.index])
            assert share.batch.halves * len(share.index.unique() % 5) >= len(share.index)
            weight += share.of_batch
            if share.of_part:
                of_latent[share.index] += 1
    assert of_latent.tolist() == [1] * 10
    assert weight == pytest.approx(1)


def test_one_process_has_the_batch_itself():
    batch = items().batch([3, 1, 2], CPU)
    (share,) = shares(batch, 1)
    assert share.batch is batch
    assert (share.of_part, share.of_batch) == (1, 1)
    energy = {"a": torch.tensor(2.0)}
    assert share.averages(energy) == energy
    x = torch.randn(6, 2)
    assert join([x], [share], 6).equal(x)
    before = x.clone()
    follow_the_first([x])
    assert x.equal(before)


CASES = ((1, 5, 50), (2, 5, 6), (1, 1, 6))  # accumulate, batch, iterations; of the last, one rank has none


def trained(accumulate: int, batch: int, iterations: int) -> tuple[list[float], torch.Tensor]:
    """Losses of a training, and one of its weights."""
    rates = {"weight_rate": 1e-3, "step_rate": 5e-3}
    rest = {"accumulate": accumulate, "zero_points": True, "averaging": 0.9, "freezing": 0.02}
    run = training(batch=batch, iterations=iterations, targets=TARGETS, **rates, **rest)
    for _ in range(iterations):
        run.step()
    run.finish()
    return run.losses, run.student.conv.weight.detach()


RANK = """
import sys
import torch
from sdquant_cli import ranks
from tests.calibration.test_shares import CASES, trained

torch.manual_seed(ranks.current().rank)
for case in CASES:
    torch.save(trained(*case), f"{sys.argv[1]}/{case}-{ranks.current().rank}.pt")
ranks.leave()
"""


def test_two_ranks_train_as_one_process_does(tmp_path):
    for process, out, err in ended(started(RANK, arguments=[str(tmp_path)])):
        assert process.returncode == 0, (out, err)
    for case in CASES:
        losses, weight = trained(*case)
        found = [torch.load(tmp_path / f"{case}-{rank}.pt") for rank in range(2)]
        assert found[0][0] == found[1][0]
        assert found[0][1].equal(found[1][1])
        assert found[0][0] == pytest.approx(losses, rel=1e-5)
        torch.testing.assert_close(found[0][1], weight, rtol=1e-4, atol=1e-6)


FOLLOWING = """
import torch
from sdquant_cli import ranks
from sdquant_cli.calibration.shares import follow_the_first
tensors = [torch.full((3,), 1.5 + ranks.current().rank), torch.tensor([7 + ranks.current().rank])]
follow_the_first(tensors)
assert tensors[0].eq(1.5).all() and tensors[1].item() == 7
ranks.leave()
"""


def test_other_ranks_begin_where_the_first_does():
    for process, out, err in ended(started(FOLLOWING)):
        assert process.returncode == 0, (out, err)
