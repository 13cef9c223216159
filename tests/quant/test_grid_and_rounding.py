import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdquant_cli.quant.grid import Grid, dequantize, quantize, round_to_grid
from sdquant_cli.quant.low_rank import LowRankUpdate
from sdquant_cli.quant.oscillation import Oscillation
from sdquant_cli.quant.ranges import affine_parameters, clipped_range, pooling_windows
from sdquant_cli.quant.rounding import Quantizer, fake_quantize
from sdquant_cli.quant.weights import weight_scales


def reference_round(x, s, z, low, high):
    """Eq. (4) and (5), one number at a time."""
    out = []
    for value in x.flatten().tolist():
        code = min(max(round(value / s) + z, low), high)  # Python rounds half to even, as torch does
        out.append((code - z) * s)
    return torch.tensor(out, dtype=x.dtype).view_as(x)


@given(st.integers(2, 8), st.booleans(), st.floats(0.01, 2.0), st.integers(0, 1000))
def test_rounding_is_equation_4_and_5(bits, signed, step, seed):
    step = float(torch.tensor(step))
    grid = Grid(bits, signed)
    zero = 0 if signed else 2 ** (bits - 1)
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)).double() * 2
    found = round_to_grid(x, torch.tensor(step, dtype=torch.float64), zero, grid)
    torch.testing.assert_close(found, reference_round(x, step, zero, grid.low, grid.high), atol=1e-6, rtol=0)


@given(st.integers(2, 8), st.booleans())
def test_grid_points_stay_where_they_are(bits, signed):
    grid, step = Grid(bits, signed), torch.tensor(0.37)
    codes = torch.arange(grid.low, grid.high + 1).float()
    zero = 0.0 if signed else 3.0
    points = dequantize(codes, step, zero)
    assert torch.equal(quantize(points, step, zero, grid), codes)


def test_fake_quantize_equals_rounding_and_its_gradients_are_lsq_plus():
    torch.manual_seed(0)
    grid = Grid(4, signed=False)
    x = (torch.randn(4, 6) * 2).requires_grad_()
    step = torch.tensor([[0.3], [0.2], [0.5], [0.1]], requires_grad=True)
    zero = torch.tensor([[8.0], [7.0], [0.0], [15.0]], requires_grad=True)
    y = fake_quantize(x, Quantizer(step, zero, grid))
    assert torch.equal(y.detach(), round_to_grid(x.detach(), step.detach(), zero.detach(), grid))
    up = torch.randn_like(y)
    y.backward(up)

    to_x, to_step, to_zero = torch.zeros_like(x), torch.zeros_like(step), torch.zeros_like(zero)
    for i, j in itertools.product(range(4), range(6)):
        scaled = (x[i, j] / step[i, 0]).item()
        code = round(scaled) + zero[i, 0].item()
        inside = grid.low <= code <= grid.high
        to_x[i, j] = up[i, j] * inside
        slope = round(scaled) - scaled if inside else min(max(code, grid.low), grid.high) - zero[i, 0].item()
        to_step[i, 0] += up[i, j].item() * slope
        to_zero[i, 0] -= up[i, j].item() * step[i, 0].item() * (not inside)
    assert 0 < (to_x == 0).sum() < 24  # the case has values inside and outside of the range
    torch.testing.assert_close(x.grad, to_x)
    torch.testing.assert_close(step.grad, to_step)
    torch.testing.assert_close(zero.grad, to_zero)


def test_weight_steps_beat_min_max_and_are_per_channel():
    torch.manual_seed(0)
    weight, grid = torch.randn(6, 40) * torch.logspace(-2, 1, 6)[:, None], Grid(4, signed=True)
    steps = weight_scales(weight, grid)
    largest = weight.abs().amax(1) / grid.high

    def error(s):
        return (round_to_grid(weight, s[:, None], 0.0, grid) - weight).square().sum(1)

    assert steps.shape == (6,)
    assert (error(steps) <= error(largest) + 1e-9).all()
    assert error(steps).sum() < 0.95 * error(largest).sum()


def test_a_zero_weight_channel_has_a_finite_step():
    steps = weight_scales(torch.zeros(2, 3), Grid(4, signed=True))
    assert (steps > 0).all()


@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(4, 16))
def test_zero_is_on_the_activation_grid_and_the_range_is_covered(a, b, bits):
    grid = Grid(bits, signed=False)
    low, high = torch.tensor([min(a, b)]), torch.tensor([max(a, b)])
    step, zero = affine_parameters(low, high, grid)
    assert round_to_grid(torch.zeros(1), step, zero, grid) == 0
    for edge in (low, high):
        assert (round_to_grid(edge, step, zero, grid) - edge).abs() <= step * 1.01 + 1e-6


@pytest.mark.parametrize(("power", "end"), [(2.0, 1.0), (2.4, 1.0), (2.0, 0.02)])
def test_the_searched_range_is_the_best_of_its_candidates(power, end):
    g = torch.Generator().manual_seed(0)
    values = torch.randn(500, generator=g)
    values[0] = 30.0  # an outlier: the observed range wastes the grid
    grid, low, high = Grid(4, signed=False), values.min(), values.max()

    def error(fraction):
        step, zero = affine_parameters(low * fraction, high * fraction, grid)
        points = torch.cat([values, low[None], high[None]])
        errors = (round_to_grid(points, step, zero, grid) - points).abs() ** power
        return float(errors[:-2].sum() + end * errors[-2:].sum())

    found = clipped_range(values, low, high, grid, power, end)
    tried = {f: error(f) for f in torch.linspace(0.3, 1, 24).tolist()}
    best = min(tried, key=tried.get)
    assert float(found[1] / high) == pytest.approx(best, rel=1e-5)
    assert float(found[0] / low) == pytest.approx(best, rel=1e-5)
    assert tried[best] < error(1.0)


def test_a_range_without_outliers_and_many_levels_is_left_alone():
    values = torch.linspace(-1, 2, 1000)
    low, high = clipped_range(values, values.min(), values.max(), Grid(8, signed=False), 2.0)
    assert (float(low), float(high)) == pytest.approx((-1, 2), rel=0.02)


def test_neighbours_are_the_fewest_rows_around_that_hold_enough():
    windows = pooling_windows(torch.tensor([0, 5, 1, 0, 9, 2]), 5)
    assert [w.tolist() for w in windows] == [[0, 1], [1], [1, 2, 3], [2, 3, 4], [4], [4, 5]]
    assert pooling_windows(torch.tensor([1, 1]), 100)[0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="no row has data"):
        pooling_windows(torch.tensor([0, 0]), 1)


def test_a_weight_that_goes_back_and_forth_is_frozen_and_one_that_drifts_is_not():
    grid, step = Grid(4, signed=True), torch.ones(1)
    weight = torch.tensor([[0.4, 0.4, 0.0]])
    history = Oscillation(weight, step, grid)
    for i in range(60):
        weight[0, 0] = 0.6 if i % 2 else 0.4  # rounds to 1, 0, 1, 0 ...
        weight[0, 1] = 0.1 * i
        history.update(weight, step, threshold=0.3)
    assert history.frozen.tolist() == [[True, False, False]]
    assert weight[0, 0] in (0.0, 1.0)
    assert weight[0, 1] == pytest.approx(5.9)


def test_a_low_rank_update_starts_at_zero_and_has_the_weights_shape():
    update = LowRankUpdate(torch.Size([6, 4, 3, 3]), 2, torch.Generator().manual_seed(0), torch.device("cpu"))
    weight = torch.randn(6, 4, 3, 3)
    assert torch.equal(update(weight), weight)
    torch.nn.init.ones_(update.up)
    found = update(weight) - weight
    assert found.shape == (6, 4, 3, 3)
    assert torch.linalg.matrix_rank(found.flatten(1), atol=1e-4) <= 2
