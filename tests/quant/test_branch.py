"""The low-rank branch beside a quantized weight."""

import pytest
import torch
from torch import nn

from sdquant_cli.quant.branch import Branch, of_rank, split_off
from sdquant_cli.quant.format import NumberFormat
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.layer_function import convolution_of
from sdquant_cli.quant.modules import quantized_layer
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.state import (
    capture,
    restore,
    rounded_to_nearest,
    state_from_arrays,
    state_to_arrays,
)
from sdquant_cli.quant.weights import weight_rounding_error
from sdquant_cli.types import Bits

SHAPES = [(12, 40), (40, 12), (16, 8, 3, 3)]
FORM = NumberFormat(per_token=True, full_range=True, branch_rank=3)


def weight_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_factors_give_the_nearest_weight_of_their_rank(shape):
    weight = weight_of(shape)
    branch = of_rank(weight, 3)
    u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    expected = ((u[:, :3] * s[:3]) @ v[:3]).view(shape)
    torch.testing.assert_close(branch.weight, expected, atol=5e-3, rtol=0)
    assert branch.up.shape == (shape[0], 3)
    assert branch.down.shape == (3, *shape[1:])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_residual_rounds_better_than_the_weight_and_than_that_of_one_decomposition(shape):
    weight, grid = weight_of(shape), Grid(4, signed=True)
    errors = [weight_rounding_error(weight, grid)]
    errors += [
        weight_rounding_error(weight - b.weight, grid)
        for b in (of_rank(weight, 3), split_off(weight, 3, grid))
    ]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(40, 12), (2, 5, 40)),
        (nn.Conv2d(8, 16, 3, stride=2, padding=1), (2, 8, 7, 7)),
        (nn.Conv2d(40, 12, 1), (2, 40, 4, 4)),
    ],
)
def test_a_branch_multiplies_as_its_weight_does(layer, shape):
    branch, x = of_rank(layer.weight, 3), torch.randn(shape)
    parameters = {"weight": branch.weight, "bias": torch.zeros(len(layer.weight))}
    expected = torch.func.functional_call(layer, parameters, x)
    torch.testing.assert_close(branch.output(x, convolution_of(layer)), expected, atol=1e-4, rtol=1e-3)


def test_the_whole_weight_is_the_residual_on_its_grid_and_the_branch():
    weight = weight_of((16, 8, 3, 3))
    saved = rounded_to_nearest(weight, Bits(4, 8), FORM)
    assert saved.branch is not None
    assert torch.equal(saved.whole_weight(), saved.weight() + saved.branch.weight)
    plain = rounded_to_nearest(weight, Bits(4, 8), NumberFormat(per_token=True, full_range=True))
    assert (saved.whole_weight() - weight).norm() < 0.95 * (plain.weight() - weight).norm()


def test_a_layer_that_a_branch_would_not_shrink_has_none():
    assert FORM.rank((16, 8, 3, 3)) == 3
    assert FORM.rank((4, 4)) == 0
    assert rounded_to_nearest(weight_of((4, 4)), Bits(4, 8), FORM).branch is None


def test_its_bits_count():
    assert NumberFormat().extra_bits((16, 8, 3, 3)) == 0
    assert FORM.extra_bits((16, 8, 3, 3)) == 16 * 3 * (16 + 72)
    assert NumberFormat(group_size=4).extra_bits((16, 8, 3, 3)) == 16 * 32


def network_of(seed=0):
    torch.manual_seed(seed)
    return nn.ModuleDict({"conv": nn.Conv2d(8, 16, 3, padding=1), "small": nn.Linear(4, 4)})


def test_a_state_comes_back_from_its_arrays_and_from_its_network():
    network, again = network_of(), network_of(1)
    state = {
        name: rounded_to_nearest(layer.weight.detach(), Bits(4, 8), FORM) for name, layer in network.items()
    }
    shapes = {name: layer.weight.shape for name, layer in network.items()}
    arrays = state_to_arrays(state)
    assert arrays["branch_up"].dtype == "float16"
    for loaded in (state_from_arrays(arrays, shapes), state):
        again = network_of(1)
        restore(again, loaded, FORM, Rows([1.0]))
        captured = capture(again, {name: Bits(4, 8) for name in shapes})
        for name, layer in captured.items():
            assert torch.equal(layer.codes, state[name].codes)
            assert (layer.branch is None) == (state[name].branch is None)
            if layer.branch is not None:
                assert all(map(torch.equal, layer.branch, state[name].branch))


def test_without_branches_a_state_has_no_arrays_of_them():
    form = NumberFormat(per_token=True)
    state = {"a": rounded_to_nearest(weight_of((4, 8)), Bits(4, 8), form)}
    assert not any("branch" in name for name in state_to_arrays(state))


def test_a_quantized_layer_trains_its_factors_and_leaves_the_original_as_it_was():
    layer = nn.Conv2d(8, 16, 3, padding=1)
    before, x = layer.weight.detach().clone(), torch.randn(2, 8, 5, 5)
    saved = rounded_to_nearest(before, Bits(4, 8), FORM)
    twin = quantized_layer(layer, saved.layer_state(FORM), Rows([1.0]), weights_on_grid=False)
    assert torch.equal(layer.weight, before)
    torch.testing.assert_close(twin.weight + saved.branch.weight, before)
    assert isinstance(twin.branch, Branch)
    for factor in twin.branch:
        factor.requires_grad_(True)
    (twin(x) - layer(x)).square().mean().backward()
    assert all(float(factor.grad.abs().max()) > 0 for factor in twin.branch)
