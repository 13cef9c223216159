import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdquant_cli.quant.allocate import (
    WIDTHS,
    LayerBits,
    allocate,
    average_bits,
    extremes,
    mixed_bits,
    noise_by_width,
    smallest_budget,
)
from sdquant_cli.quant.fisher import collecting_terms, fisher_score, printed_score, ranking
from sdquant_cli.quant.grid import Grid, round_to_grid
from sdquant_cli.quant.weights import weight_rounding_error, weight_scales
from sdquant_cli.types import Bits


class Net(nn.Module):
    """A convolution, a linear layer with bias and one without."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.first = nn.Linear(4, 6)
        self.last = nn.Linear(6, 2, bias=False)

    def forward(self, x):
        return self.last(torch.tanh(self.first(torch.relu(self.conv(x)).flatten(2).transpose(1, 2))))


def test_terms_of_every_item_are_its_own_gradient_times_the_weight():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(5, 3, 8, 8)
    layers = dict(net.named_children())
    with collecting_terms(layers) as terms:
        net(x.requires_grad_()).square().flatten(1).mean(dim=1).sum().backward()
    for item in range(5):
        net.zero_grad()
        net(x[item : item + 1].detach()).square().mean().backward()
        for name, layer in layers.items():
            pairs = zip(layer.weight.grad.flatten().tolist(), layer.weight.flatten().tolist(), strict=True)
            expected = sum(g * w for g, w in pairs)
            assert terms[name][item].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_scores_are_equation_10_and_the_empirical_fisher_form():
    torch.manual_seed(0)
    weight, gradients = torch.randn(4, 3), [torch.randn(4, 3) for _ in range(3)]
    d = [sum(float(g[i, j] * weight[i, j]) for i in range(4) for j in range(3)) for g in gradients]
    x = sum(d) / 3
    found = torch.tensor(d)[:, None]
    assert printed_score(found).item() == pytest.approx(abs(x - 0.5 * x * x), rel=1e-5)
    fisher = sum(torch.outer(g.flatten(), g.flatten()) for g in gradients) / 3
    expected = weight.flatten() @ fisher @ weight.flatten()
    assert fisher_score(found).item() == pytest.approx(expected.item(), rel=1e-4)


def test_terms_that_cancel_are_seen_by_fisher_alone():
    d = torch.tensor([[1.0, 0.1], [-1.0, 0.1]])
    assert ranking(["cancels", "small"], printed_score(d)) == ["small", "cancels"]
    assert ranking(["cancels", "small"], fisher_score(d)) == ["cancels", "small"]


def test_rounding_error_is_that_of_the_real_grid():
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    errors = [weight_rounding_error(weight, Grid(bits, signed=True)) for bits in WIDTHS]
    assert errors == sorted(errors, reverse=True)
    grid = Grid(3, signed=True)
    rounded = round_to_grid(weight, weight_scales(weight, grid).view(-1, 1, 1, 1), 0.0, grid)
    pairs = zip(weight.flatten().tolist(), rounded.flatten().tolist(), strict=True)
    expected = sum((a - b) ** 2 for a, b in pairs)
    assert errors[1] == pytest.approx(expected, rel=1e-5)


def test_ranking_is_highest_first_and_ties_are_by_name():
    assert ranking(["b", "a", "c"], torch.tensor([1.0, 1.0, 2.0])) == ["c", "a", "b"]


def test_extremes_are_five_percent_to_the_nearest():
    for layers, count in ((258, 13), (773, 39)):
        top, bottom = extremes([f"l{i}" for i in range(layers)])
        assert len(top) == len(bottom) == count
        assert top[0] == "l0"
        assert bottom[-1] == f"l{layers - 1}"


def test_mixed_bits_follow_the_table_for_any_bits():
    layers = ["a", "b", "c"]
    for bits, high, low in (
        (Bits(4, 8), Bits(8, 16), Bits(4, 4)),
        (Bits(8, 8), Bits(8, 16), Bits(8, 4)),
        (Bits(4, 4), Bits(8, 8), Bits(4, 4)),
        (Bits(3, 3), Bits(8, 6), Bits(3, 3)),
        (Bits(4, 16), Bits(8, 16), Bits(4, 8)),
    ):
        assert mixed_bits(layers, bits, ["a"], ["c"]) == {"a": high, "b": bits, "c": low}


def test_average_bits_name_their_weighting():
    layers = [
        LayerBits(8, 16, weights=1, positions=30, inputs=10),
        LayerBits(4, 8.4, weights=3, positions=10, inputs=30),
    ]
    expected = {
        "weights, by layers": 6,
        "weights, by parameters": 5,
        "weights, by multiplications": 6,
        "activations, by layers": 12.2,
        "activations, by elements": 10.3,
    }
    assert average_bits(layers) == pytest.approx(expected)
    layers.append(LayerBits(4, 8, weights=4, positions=5, inputs=40, extra=32, branch=2))
    found = average_bits(layers)
    assert found["weights with groups and branches, by parameters"] == (8 + 12 + 16 + 32) / 8
    assert found["weights, by multiplications"] == (240 + 120 + 5 * (16 + 32)) / 80


def costs(noises):
    """Noise that falls by four with every bit."""
    return np.array([[n * 4.0 ** (4 - b) for b in WIDTHS] for n in noises])


problems = st.lists(st.tuples(st.floats(1e-6, 1.0), st.integers(1, 40)), min_size=1, max_size=4)


@settings(max_examples=40)
@given(problems, st.floats(2, 8.5))
def test_the_integer_program_finds_what_trying_everything_finds(layers, average):
    cost, parameters = costs(n for n, _ in layers), np.array([p for _, p in layers])
    budget = int(average * parameters.sum())
    found = allocate(cost, parameters, budget)
    best = min(
        sum(cost[i, b - WIDTHS[0]] for i, b in enumerate(widths))
        for widths in itertools.product(WIDTHS, repeat=len(layers))
        if np.dot(widths, parameters) <= budget
    )
    assert np.dot(found.widths, parameters) <= budget
    assert found.noise == pytest.approx(best, rel=1e-6)
    assert found.noise == pytest.approx(sum(cost[i, b - WIDTHS[0]] for i, b in enumerate(found.widths)))


def test_a_budget_is_met_to_the_bit():
    cost, parameters = costs([1.0, 0.5]), np.array([30, 7])
    smallest = smallest_budget(parameters)
    assert smallest == 2 * 37
    assert allocate(cost, parameters, smallest).widths == (2, 2)
    assert allocate(cost, parameters, smallest + 6).widths == (2, 2)
    assert allocate(cost, parameters, smallest + 7).widths == (2, 3)
    assert allocate(cost, parameters, 8 * 37).widths == (8, 8)
    assert allocate(cost, parameters, 99 * 37).widths == (8, 8)
    with pytest.raises(ValueError, match="smaller than the smallest"):
        allocate(cost, parameters, smallest - 1)


def test_more_budget_never_promises_more_noise():
    generator = np.random.default_rng(0)
    cost, parameters = costs(10 ** generator.uniform(-6, -1, 40)), generator.integers(1, 500, 40) * 32
    total = int(parameters.sum())
    noises = [allocate(cost, parameters, total * k // 4).noise for k in range(8, 33)]
    assert noises == sorted(noises, reverse=True)
    assert len(set(noises)) == len(noises)


def test_among_equal_layers_the_sensitive_gets_more_bits():
    widths = allocate(costs([1e-2, 1e-4, 1e-6]), np.array([10, 10, 10]), 12 * 10).widths
    assert widths == tuple(sorted(widths, reverse=True))
    assert widths[0] > widths[2]


def test_noise_by_width_follows_the_rounding_errors():
    errors = np.array([[4.0 ** (8 - b) for b in WIDTHS], [0.0] * len(WIDTHS)])
    found = noise_by_width(np.array([0.5, 0.0]), errors, measured=4)
    assert found[0].tolist() == pytest.approx([0.5 * 4.0 ** (4 - b) for b in WIDTHS])
    assert found[1].tolist() == [0] * len(WIDTHS)
    assert math.isfinite(allocate(found, np.array([8, 8]), 64).noise)
