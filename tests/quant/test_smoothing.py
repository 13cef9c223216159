"""Channel scaling: the equation, the layer, and what is stored of it."""

import math

import pytest
import torch
from torch import nn

from sdquant_cli.quant.branch import of_rank
from sdquant_cli.quant.format import NumberFormat
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.layer_function import fake_quantized_layer
from sdquant_cli.quant.modules import LayerState, quantized_layer
from sdquant_cli.quant.relaxing import RelaxedRows
from sdquant_cli.quant.rounding import Quantizer
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.smoothing import (
    INPUT_EXPONENTS,
    WEIGHT_EXPONENTS,
    candidates,
    channel_magnitudes,
    smoothed_input,
    smoothed_weight,
)
from sdquant_cli.quant.state import capture, restore, state_from_arrays, state_to_arrays
from sdquant_cli.quant.tokens import TokenQuantizer
from sdquant_cli.quant.weights import weight_scales
from sdquant_cli.types import Bits

LAYERS = [
    (nn.Linear(12, 6), (2, 5, 12)),
    (nn.Conv2d(8, 16, 3, padding=1), (2, 8, 5, 6)),
    (nn.Conv2d(12, 6, 1, groups=2), (2, 12, 4, 4)),
]
FORM = NumberFormat(per_token=True, full_range=True, smoothing=True)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smoothing_for(layer):
    return drawn(layer.weight.shape[1], seed=1).mul(0.3).exp()


def axis_of(layer):
    return 1 if isinstance(layer, nn.Conv2d) else -1


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_a_layer_computes_what_it_did(layer, shape):
    x, smoothing = drawn(*shape), smoothing_for(layer)
    weights = {"weight": smoothed_weight(layer.weight, smoothing)}
    y = torch.func.functional_call(layer, weights, smoothed_input(x, smoothing, axis_of(layer)))
    torch.testing.assert_close(y, layer(x), atol=1e-5, rtol=1e-4)


def test_the_numbers_are_those_of_the_equation():
    inputs, weights = drawn(7).exp(), drawn(7, seed=1).exp()
    expected = []
    for a in INPUT_EXPONENTS:
        for b in WEIGHT_EXPONENTS:
            m = [float(w) ** b / float(x) ** a for x, w in zip(inputs, weights, strict=True)]
            mean = math.prod(m) ** (1 / 7)
            expected.append([number / mean for number in m])
    torch.testing.assert_close(torch.stack(list(candidates(inputs, weights))), torch.tensor(expected))
    assert torch.equal(next(candidates(inputs, weights)), torch.ones(7))


def test_magnitudes_of_channels_of_all_groups_are_taken_together():
    x = drawn(2, 6, 3)
    expected = torch.stack([x[:, [c, c + 3]].abs().max() for c in range(3)])
    assert torch.equal(channel_magnitudes(x, 1, 3), expected)
    assert torch.equal(channel_magnitudes(x.mT, -1, 6), x.abs().amax((0, 2)))


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
@pytest.mark.parametrize("per_token", [True, False])
def test_rounding_and_gradients_are_those_of_the_smoothed_input(layer, shape, per_token):
    grid, axis, smoothing = Grid(4, signed=False), axis_of(layer), smoothing_for(layer)
    scale = torch.full([1] * len(shape), 0.2)
    quantizer = TokenQuantizer(axis, grid) if per_token else Quantizer(scale, torch.full_like(scale, 7), grid)
    convolution = None
    if isinstance(layer, nn.Conv2d):
        convolution = (layer.stride, layer.padding, layer.dilation, layer.groups)
    gradients = []
    for inside in (True, False):
        x = drawn(*shape).requires_grad_()
        given = x if inside else smoothed_input(x, smoothing, axis)
        within = smoothing if inside else None
        y = fake_quantized_layer(given, layer.weight, None, quantizer, None, convolution, within)
        (y * drawn(*y.shape, seed=2)).sum().backward()
        gradients.append((y.detach(), x.grad))
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_a_quantized_layer_rounds_the_smoothed_weight_and_leaves_the_original(layer, shape):
    smoothing, grid = smoothing_for(layer), Grid(8, signed=True)
    before, none = layer.weight.detach().clone(), torch.empty(0)
    scales = weight_scales(smoothed_weight(layer.weight, smoothing), grid)
    state = LayerState(scales, none, none, grid, Grid(8, signed=False), per_token=True, smoothing=smoothing)
    quantized = quantized_layer(layer, state, Rows([1.0]), weights_on_grid=False)
    assert torch.equal(layer.weight, before)
    x = drawn(*shape)
    assert (quantized(x) - layer(x)).norm() < 0.02 * layer(x).norm()


def test_outlying_channels_round_better():
    layer = nn.Linear(32, 8)
    x = drawn(4, 10, 32)
    x[..., 3] *= 50
    inputs, weights = channel_magnitudes(x, -1, 32), channel_magnitudes(layer.weight, 1, 32)
    errors = []
    for smoothing in candidates(inputs, weights):
        rounded = TokenQuantizer(-1, Grid(8, signed=False)).values(smoothed_input(x, smoothing, -1))
        y = rounded @ smoothed_weight(layer.weight, smoothing).T
        errors.append((y - x @ layer.weight.T).square().sum().item())
    assert min(errors) < 0.1 * errors[0]


def test_a_state_comes_back_from_its_arrays_and_from_its_network():
    torch.manual_seed(0)
    network = nn.ModuleDict({"conv": nn.Conv2d(8, 16, 3, padding=1), "linear": nn.Linear(8, 4)})
    shapes = {name: layer.weight.shape for name, layer in network.items()}
    originals = {name: layer.weight.detach().clone() for name, layer in network.items()}
    none, grids = torch.empty(0), FORM.grids(Bits(8, 8))
    for name, layer in network.items():
        smoothing = smoothing_for(layer)
        scales = weight_scales(smoothed_weight(layer.weight, smoothing), grids[0])
        state = LayerState(scales, none, none, *grids, per_token=True, smoothing=smoothing)
        network[name] = quantized_layer(layer, state, Rows([1.0]), weights_on_grid=False)
    saved = capture(network, dict.fromkeys(shapes, Bits(8, 8)))
    loaded = state_from_arrays(state_to_arrays(saved), shapes)
    again = nn.ModuleDict({"conv": nn.Conv2d(8, 16, 3, padding=1), "linear": nn.Linear(8, 4)})
    for name, layer in again.items():
        layer.bias = network[name].bias
    restore(again, loaded, FORM, Rows([1.0]))
    for name, shape in (("conv", (2, 8, 4, 4)), ("linear", (2, 3, 8))):
        assert torch.equal(loaded[name].smoothing, saved[name].smoothing)
        assert torch.equal(again[name](drawn(*shape)), network[name](drawn(*shape)))
        whole = loaded[name].whole_weight()
        assert (whole - originals[name]).norm() < 0.02 * originals[name].norm()


def test_without_smoothing_a_state_has_no_array_of_it():
    network = nn.ModuleDict({"linear": nn.Linear(8, 4)})
    form = NumberFormat(per_token=True)
    none, grids = torch.empty(0), form.grids(Bits(8, 8))
    state = LayerState(weight_scales(network["linear"].weight, grids[0]), none, none, *grids, per_token=True)
    network["linear"] = quantized_layer(network["linear"], state, Rows([1.0]), weights_on_grid=False)
    assert "smoothing" not in state_to_arrays(capture(network, {"linear": Bits(8, 8)}))


@pytest.mark.parametrize("rows_differ", [False, True])
def test_the_output_has_the_inputs_dtype(rows_differ):
    layer, smoothing = nn.Linear(16, 8).bfloat16(), drawn(16).exp()
    grid, scale = Grid(8, signed=False), torch.full((2,), 0.1)
    weight = smoothed_weight(layer.weight.float(), smoothing)
    weight_grid = Grid(8, signed=True)
    state = LayerState(
        weight_scales(weight, weight_grid),
        scale,
        torch.full((2,), 100.0),
        weight_grid,
        grid,
        RelaxedRows(torch.tensor([True, False]), Grid(10, signed=False)),
        branch=of_rank(weight, 2),
        smoothing=smoothing,
    )
    rows = Rows([1.0, 2.0])
    quantized = quantized_layer(layer, state, rows, weights_on_grid=False)
    rows.set(torch.tensor([1.0, 2.0] if rows_differ else [2.0]))
    assert quantized(drawn(2, 3, 16).bfloat16()).dtype is torch.bfloat16
