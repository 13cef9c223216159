"""Quantizers of weights in groups, against a loop over them."""

import pytest
import torch

from sdquant_cli.quant.format import PAPER, NumberFormat
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.rounding import Quantizer, fake_quantize
from sdquant_cli.quant.state import rounded_to_nearest
from sdquant_cli.quant.weights import (
    WeightQuantizer,
    dequantized_weight,
    weight_rounding_error,
    weight_scales,
)
from sdquant_cli.types import Bits

SHAPES = [(4, 12), (3, 8, 3, 3)]


def weight_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def scale_of_each_value(scale, shape, groups):
    """The scale of group g of output channel o is entry o * groups + g; its input channels are adjacent."""
    spread = torch.empty(shape)
    size = shape[1] // groups
    for o in range(shape[0]):
        for g in range(groups):
            spread[o, g * size : (g + 1) * size] = scale[o * groups + g]
    return spread


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 4])
def test_each_group_of_input_channels_has_its_own_scale(shape, groups):
    weight, grid = weight_of(shape), Grid(4, signed=True)
    scale = torch.rand(shape[0] * groups, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.1
    spread = scale_of_each_value(scale, shape, groups)
    codes = torch.round(weight / spread).clamp(-8, 7)
    quantizer = WeightQuantizer(scale, grid)
    assert torch.equal(quantizer.codes(weight), codes)
    assert torch.equal(quantizer.values(weight), codes * spread)
    assert torch.equal(dequantized_weight(codes.to(torch.int8), scale), codes * spread)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_each_group(shape):
    weight, up, scale = weight_of(shape), torch.rand(shape), torch.rand(shape[0] * 2) * 0.3 + 0.1
    to_weight, to_scale = WeightQuantizer(scale, Grid(4, signed=True)).gradients(weight, up, to_scale=True)
    spread = scale_of_each_value(scale, shape, 2).requires_grad_()
    weight = weight.clone().requires_grad_()
    fake_quantize(weight, Quantizer.symmetric(spread, Grid(4, signed=True))).backward(up)
    torch.testing.assert_close(to_weight, weight.grad)
    sums = spread.grad.view(shape[0] * 2, -1).sum(1)
    torch.testing.assert_close(to_scale, sums, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("narrow", [False, True])
def test_the_scale_has_the_least_error_of_all_clippings(narrow):
    weight, grid = weight_of((5, 60)), Grid(4, signed=True, narrow=narrow)
    scale = weight_scales(weight, grid)
    error = (WeightQuantizer(scale, grid).values(weight) - weight).square().sum(1)
    for fraction in torch.linspace(0.5, 1.0, 11).tolist():
        largest = weight.abs().amax(1) * fraction / -grid.low
        for trial in (largest, -largest)[: 1 if narrow else 2]:
            other = (WeightQuantizer(trial, grid).values(weight) - weight).square().sum(1)
            assert bool((error <= other * 1.03).all())
    assert bool((scale > 0).all()) == narrow


def test_the_end_further_from_zero_has_the_lowest_code():
    weight = torch.tensor([[-1.0, 0.3, 0.5], [1.0, -0.3, -0.5]])
    quantizer = WeightQuantizer(weight_scales(weight, Grid(4, signed=True)), Grid(4, signed=True))
    assert quantizer.codes(weight)[:, 0].tolist() == [-8, -8]
    assert (quantizer.scale > 0).tolist() == [True, False]


def test_sixteen_levels_and_groups_round_better_than_fifteen():
    weight = weight_of((64, 64)) * torch.logspace(-1, 0, 64)
    narrow, full = Grid(4, signed=True, narrow=True), Grid(4, signed=True)
    errors = [weight_rounding_error(weight, narrow), weight_rounding_error(weight, full)]
    errors.append(weight_rounding_error(weight, full, groups=4))
    assert errors[0] > 1.1 * errors[1] > 1.3 * errors[2]


def test_scales_of_groups_are_stored_in_fp16_and_never_zero():
    weight = weight_of((4, 8)) * 1e-3
    weight[1, 4:] = 0  # as of a pruned model
    saved = rounded_to_nearest(weight, Bits(4, 8), NumberFormat(full_range=True, group_size=4))
    assert torch.equal(saved.weight_step, saved.weight_step.half().float())
    assert bool((saved.weight_step != 0).all())
    assert not saved.codes[1, 4:].any()
    assert bool((saved.weight() - weight).abs().max() < 1e-3)


def test_a_format_groups_only_what_fits():
    form = NumberFormat(group_size=32)
    assert [form.groups(shape) for shape in ((8, 64), (8, 32, 3, 3), (8, 48), (8, 4, 3, 3))] == [2, 1, 1, 1]
    assert PAPER.groups((8, 64)) == 1


def test_grids_of_a_format():
    assert [grid.low for grid in PAPER.grids(Bits(4, 8))] == [-7, 0]
    assert [grid.low for grid in NumberFormat(full_range=True).grids(Bits(4, 8))] == [-8, 0]
