"""Inputs with a scale for each token or pixel, against a loop over them."""

import pytest
import torch
from torch import nn

from sdquant_cli.quant.drop import Draw
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.modules import LayerState, QuantInput, quantized_layer
from sdquant_cli.quant.rounding import plain_values
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.tokens import TokenQuantizer, _kernel_layout, fake_quantize_tokens

SHAPES = [((3, 7, 33), -1), ((5, 130), -1), ((2, 5, 9, 13), 1), ((4, 10, 6), 1), ((2, 1, 70), 1)]
LAYOUTS = [*((shape, axis, False) for shape, axis in SHAPES), ((2, 5, 9, 13), 1, True)]


def by_loop(x, axis, bits):
    """(q - z) s with s and z of each token alone (Efficiency Meets Fidelity, eq. 4-5)."""
    top = 2**bits - 1
    tokens = x.movedim(axis, -1).reshape(-1, x.shape[axis]).clone()
    for token in tokens:
        low, high = min(float(token.min()), 0.0), max(float(token.max()), 0.0)
        scale = max((high - low) / top, 1e-8)
        zero = min(max(round(-low / scale), 0), top)
        for i, value in enumerate(token.tolist()):
            code = min(max(round(value / scale) + zero, 0), top)
            token[i] = (code - zero) * scale
    return tokens.view(x.movedim(axis, -1).shape).movedim(-1, axis)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("bits", [4, 8])
def test_each_token_is_rounded_to_its_own_grid(shape, axis, bits):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x[0] = x[0].abs() + 1  # one-sided, and far from zero
    x[-1, ..., -1:] = 0
    rounded = TokenQuantizer(axis, Grid(bits, signed=False)).values(x)
    expected = by_loop(x, axis, bits)
    step = (x.amax(axis, keepdim=True).clamp(min=0) - x.amin(axis, keepdim=True).clamp(max=0)) / (2**bits - 1)
    differing = ((rounded - expected).abs() > 1e-5).float().mean()
    assert float(differing) < 0.01  # ties of fp32 and fp64
    assert bool(((rounded - x).abs() <= 0.51 * step + 1e-6).all())


@pytest.mark.parametrize(("shape", "axis", "channels_last"), LAYOUTS)
@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("draw", [None, Draw(3, 1 << 31)])
def test_the_kernel_computes_what_plain_torch_computes(shape, axis, channels_last, bits, draw):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    quantizer = TokenQuantizer(axis, Grid(bits, signed=False), draw)
    rounded = quantizer.values(x)
    assert torch.equal(rounded, plain_values(x, quantizer.parameters(x)))
    takes = not channels_last or draw is None
    assert (_kernel_layout(x, quantizer) is not None) == takes
    if takes:
        assert rounded.stride() == x.stride()


def test_gradients_pass_through_unchanged():
    x = torch.randn(2, 6, 5, requires_grad=True)
    up = torch.randn(2, 6, 5)
    fake_quantize_tokens(x, TokenQuantizer(1, Grid(4, signed=False))).backward(up)
    assert torch.equal(x.grad, up)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_to_the_codes_of_fp32(dtype):
    x, quantizer = torch.randn(4, 40).to(dtype), TokenQuantizer(-1, Grid(8, signed=False))
    assert torch.equal(fake_quantize_tokens(x, quantizer), quantizer.values(x.float()).to(dtype))


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(6, 4), (2, 3, 6)), (nn.Conv2d(6, 4, 3, padding=1), (2, 6, 5, 5))]
)
def test_a_layer_multiplies_the_rounded_tokens_and_needs_no_timestep(layer, shape):
    none, weight_grid, grid = torch.empty(0), Grid(4, signed=True), Grid(8, signed=False)
    state = LayerState(torch.full((4,), 0.05), none, none, weight_grid, grid, per_token=True)
    twin = quantized_layer(layer, state, Rows([1.0]), weights_on_grid=False)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = torch.round(layer.weight / 0.05).clamp(-8, 7) * 0.05
    rounded = by_loop(x, 1 if x.dim() == 4 else -1, 8)
    expected = torch.func.functional_call(layer, {"weight": weight}, rounded)
    torch.testing.assert_close(twin(x), expected, atol=2e-3, rtol=1e-3)
    twin(x).sum().backward()
    assert twin.weight.grad is not None
    assert twin.weight_step.grad is not None


def test_an_input_in_place_of_an_identity_has_its_channels_where_it_says():
    none = torch.empty(0)
    state = LayerState(none, none, none, Grid(2, signed=True), Grid(4, signed=False), per_token=True)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(QuantInput(state, Rows([1.0]), -1)(x), by_loop(x, -1, 4))
    torch.testing.assert_close(QuantInput(state, Rows([1.0]), 1)(x), by_loop(x, 1, 4))
