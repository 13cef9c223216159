"""AdaRound and QDrop against their equations."""

import math

import pytest
import torch

from sdquant_cli.quant.adaround import (
    BETA,
    SoftRounding,
    beta_at,
    inverse_rectified_sigmoid,
    rectified_sigmoid,
    rounding_penalty,
)
from sdquant_cli.quant.drop import Draw, Drop
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.rounding import Quantizer, fake_quantize

GRID = Grid(4, signed=True)


def reference_share(alpha: float) -> float:
    """AdaRound: the rectified sigmoid, zeta 1.1 and gamma -0.1."""
    return min(max(1 / (1 + math.exp(-alpha)) * 1.2 - 0.1, 0.0), 1.0)


def test_the_share_is_the_rectified_sigmoid_and_alpha_its_inverse():
    for alpha in (-5.0, -2.0, -0.3, 0.0, 1.7, 6.0):
        assert float(rectified_sigmoid(torch.tensor(alpha))) == pytest.approx(
            reference_share(alpha), abs=1e-6
        )
    share = torch.linspace(0, 0.999, 50)
    assert torch.allclose(rectified_sigmoid(inverse_rectified_sigmoid(share)), share, atol=1e-5)


def test_the_regulariser_is_zero_where_everything_is_decided():
    share = torch.tensor([0.0, 1.0, 0.3, 0.5])
    expected = sum(1 - abs(2 * h - 1) ** 3 for h in share.tolist())
    assert float(rounding_penalty(share, 3.0)) == pytest.approx(expected)
    assert float(rounding_penalty(torch.tensor([0.0, 1.0]), 20.0)) == 0


def test_beta_is_absent_in_the_warm_up_and_falls_linearly_after_it():
    assert beta_at(0.0) is None
    assert beta_at(0.19) is None
    assert beta_at(0.2) == pytest.approx(BETA[0])
    assert beta_at(0.6) == pytest.approx((BETA[0] + BETA[1]) / 2)
    assert beta_at(1.0) == pytest.approx(BETA[1])


def test_soft_rounding_starts_at_the_weight_and_ends_at_a_neighbour_on_the_grid():
    torch.manual_seed(0)
    weight, step = torch.randn(5, 7), torch.full((5,), 0.5)
    rounding = SoftRounding(weight, step, GRID)
    inside = weight.abs() < 0.5 * GRID.high
    assert torch.allclose(rounding(weight)[inside], weight[inside], atol=1e-5)
    codes = rounding.hard() / 0.5
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() <= GRID.high
    assert torch.equal(codes, torch.round(weight / 0.5).clamp(GRID.low, GRID.high))  # nothing was learned
    with torch.no_grad():
        rounding.alpha.fill_(9.0)
    assert torch.equal(rounding.hard() / 0.5, (torch.floor(weight / 0.5) + 1).clamp(GRID.low, GRID.high))


def test_soft_rounding_passes_gradients_to_what_decides():
    weight, step = torch.tensor([[0.2, 0.3]]), torch.tensor([0.5])
    rounding = SoftRounding(weight, step, GRID)
    rounding(weight).sum().backward()
    shares = torch.tensor([0.4, 0.6])
    sigmoid = (shares + 0.1) / 1.2
    assert torch.allclose(rounding.alpha.grad, 0.5 * 1.2 * sigmoid * (1 - sigmoid), atol=1e-5)


def hashed(number):
    """lowbias32 (Wellons 2018), in Python's integers."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        number = (number ^ number >> shift) * factor % 2**32
    return number ^ number >> 16


def test_drop_leaves_its_share_by_place_and_seed():
    x = torch.zeros(100, 100)
    draw = Drop(0.3, torch.Generator().manual_seed(0)).draw()
    left = draw.keep_mask(x)
    assert left.shape == x.shape
    assert left.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert left.view(-1)[:500].tolist() == [hashed(i ^ draw.seed) < draw.bound for i in range(500)]


def test_each_draw_is_another_and_the_generator_decides_which():
    x, drops = torch.zeros(1000), [Drop(0.5, torch.Generator().manual_seed(7)) for _ in range(2)]
    first, second = ([drop.draw().keep_mask(x) for _ in range(2)] for drop in drops)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    agree = (first[0] == first[1]).float().mean().item()
    assert agree == pytest.approx(0.5, abs=0.06)  # as independent ones do


def test_what_is_left_takes_no_part_in_the_gradient_of_the_step_size():
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), requires_grad=True)
    step, draw = torch.full((1, 1), 0.3, requires_grad=True), Draw(5, 1 << 31)
    left, grid = draw.keep_mask(x), Grid(3, signed=True)
    y = fake_quantize(x, Quantizer(step, torch.zeros(1, 1), grid, draw))
    y.sum().backward()
    assert torch.equal(y[left], x[left])
    assert (x.grad[left] == 1).all()
    alone = torch.full((1, 1), 0.3, requires_grad=True)
    fake_quantize(x.detach()[~left][None], Quantizer(alone, torch.zeros(1, 1), grid)).sum().backward()
    torch.testing.assert_close(step.grad, alone.grad)


def test_all_of_an_input_can_be_left():
    assert Drop(1.0).all
    assert not Drop(0.99).all
