"""Steps chosen by density and variety, each equation against a plain reference."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdquant_cli.calibration.selection.density import (
    assigned,
    counts,
    density,
    differences,
    radius_of,
    variety,
    weights,
)

T, ITEMS, POSITIONS, CHANNELS = 6, 2, 3, 4


@pytest.fixture
def features():
    stream = torch.Generator().manual_seed(0)
    steps = torch.linspace(0, 1, T).view(T, 1, 1, 1) ** 3  # dense at the beginning
    return list(torch.randn(T, ITEMS, POSITIONS, CHANNELS, generator=stream) * 0.2 + 3 * steps)


def mean_square(a, b):
    return float(sum((x - y) ** 2 for x, y in zip(a.flatten(), b.flatten(), strict=True))) / a.numel()


def one_minus_cos(a, b):
    total = 0.0
    for x, y in zip(a.reshape(-1, CHANNELS), b.reshape(-1, CHANNELS), strict=True):
        total += 1 - float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
    return total


@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
def test_density_counts_the_steps_within_the_radius(features, share):
    distance = differences(features)[0] / features[0].numel()
    pairs = sorted(mean_square(features[a], features[b]) for a in range(T) for b in range(a))
    place = share * (len(pairs) - 1)
    low = math.floor(place)
    radius = pairs[low] + (place - low) * (pairs[low + 1] - pairs[low])
    assert radius_of(distance, share) == pytest.approx(radius, rel=1e-5)
    expected = [
        sum(mean_square(features[t], features[s]) <= radius for s in range(T) if s != t) for t in range(T)
    ]
    assert density(distance, radius_of(distance, share)).tolist() == expected


def test_variety_sums_what_directions_differ_by(features):
    _, angular = differences(features)
    expected = [sum(one_minus_cos(features[t], features[s]) for s in range(T) if s != t) for t in range(T)]
    assert variety(angular).tolist() == pytest.approx(expected, rel=1e-4)


def test_what_is_summed_over_batches_is_what_all_items_give(features):
    whole = differences(features)
    parts = [differences([f[i : i + 1] for f in features]) for i in range(ITEMS)]
    for all_items, *each in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(each), all_items)


def test_weights_are_scaled_before_they_are_added():
    found = weights(torch.tensor([2.0, 4.0, 6.0]), torch.tensor([10.0, 30.0, 20.0]), 5.0)
    assert found.tolist() == [0.0, 5.5, 3.5]
    assert weights(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]), 2.0).tolist() == [0, 1, 2]


def reference_counts(weight, total):
    """As the script has it: add one to each of the largest, take from the last."""
    n = [round(w / sum(weight) * total) for w in weight]
    largest = sorted(range(len(n)), key=lambda t: -n[t])
    for t in largest[: max(0, total - sum(n))]:
        n[t] += 1
    for t in reversed(range(len(n))):
        if sum(n) > total and n[t]:
            n[t] -= 1
    return n


@given(st.lists(st.integers(0, 64), min_size=1, max_size=60).filter(any), st.integers(1, 400))
def test_counts_are_the_references_and_sum_to_the_prompts(weight, total):
    found = counts(torch.tensor(weight, dtype=torch.float64), total)
    assert found.tolist() == reference_counts(weight, total)
    assert int(found.sum()) == total
    assert int(found.min()) >= 0


def test_what_is_missing_goes_to_the_largest_one_to_each():
    assert counts(torch.tensor([5.3, 3.4, 1.3]), 10).tolist() == [6, 3, 1]
    assert counts(torch.tensor([3.25, 3.25, 3.25, 0.25]), 10).tolist() == [4, 3, 3, 0]
    assert counts(torch.tensor([2.4, 2.4, 2.4, 0.4, 0.4]), 8).tolist() == [3, 3, 2, 0, 0]


def test_without_weights_every_step_counts_the_same():
    assert counts(torch.zeros(4), 8).tolist() == [2, 2, 2, 2]
    assert radius_of(torch.zeros(1, 1), 0.3) == 0.0


def test_every_prompt_gets_one_step_in_an_order_of_the_seed():
    count = torch.tensor([3, 0, 5])
    chosen = assigned(count, 0)
    assert Counter(chosen) == {0: 3, 2: 5}
    assert chosen == assigned(count, 0)
    assert len({assigned(count, seed) for seed in range(5)}) > 1
