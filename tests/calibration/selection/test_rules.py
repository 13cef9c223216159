"""Which steps give latents: each rule against its definition."""

import itertools

import pytest
import torch

from sdquant_cli.calibration.selection.rules import at_random, at_stride, normally
from sdquant_cli.errors import UsageProblem

CALLS = 51


def counts(chosen):
    return torch.bincount(torch.tensor(chosen).flatten(), minlength=CALLS)


@pytest.mark.parametrize(
    "rule",
    [
        lambda count, i: at_random(CALLS, count, 0, i),
        lambda count, i: at_stride(CALLS, count, i),
        lambda count, i: normally(CALLS, count, 0, i, 0.4, 0.4),
    ],
)
def test_calls_are_distinct_sorted_and_there(rule):
    for count in (1, 4, CALLS):
        for i in range(60):
            chosen = rule(count, i)
            assert len(set(chosen)) == count
            assert list(chosen) == sorted(chosen)
            assert 0 <= chosen[0] <= chosen[-1] < CALLS
            assert chosen == rule(count, i)


def test_random_calls_are_spread():
    assert counts([at_random(CALLS, 4, 0, i) for i in range(500)]).min() > 15  # 39 expected
    assert at_random(CALLS, CALLS, 0, 0) == tuple(range(CALLS))


def test_strides_are_equal_and_visit_all_calls():
    for i in range(5):
        chosen = at_stride(50, 25, i)
        assert {b - a for a, b in itertools.pairwise(chosen)} == {2}
    assert set(counts([at_stride(CALLS, 1, i) for i in range(2 * CALLS)]).tolist()) == {2}


def test_normal_times_have_their_mean_and_deviation():
    chosen = torch.tensor([normally(1000, 1, 0, i, 0.5, 0.1)[0] for i in range(2000)])
    time = 1 - chosen / 999
    assert abs(float(time.mean()) - 0.5) < 0.01
    assert abs(float(time.std()) - 0.1) < 0.01
    near_picture = torch.tensor([normally(CALLS, 1, 0, i, 0.0, 0.01)[0] for i in range(50)])
    assert int(near_picture.min()) > 45  # the last calls are the picture's


def test_calls_out_of_reach_are_refused_and_not_waited_for(monkeypatch):
    monkeypatch.setattr("sdquant_cli.calibration.selection.rules.DRAWS", 50)
    with pytest.raises(UsageProblem, match=r"1e-05: 1 of 50 calls .* --per-prompt 2 needs"):
        normally(50, 2, 0, 0, 0.4, 1e-5)
