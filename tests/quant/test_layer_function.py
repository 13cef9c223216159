"""The fused layer against the same layer put together from its parts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sdquant_cli.quant.drop import Draw
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.layer_function import Convolution, fake_quantized_layer
from sdquant_cli.quant.rounding import Quantizer, fake_quantize
from sdquant_cli.quant.weights import WeightQuantizer

LINEAR = ((5, 7, 6), (4, 6), None)
CONVOLUTION = ((5, 6, 9, 9), (4, 6, 3, 3), Convolution((2, 2), (1, 1), (1, 1), 1))
GROUPED = ((5, 6, 9, 9), (4, 3, 3, 3), Convolution((1, 1), (0, 0), (2, 2), 2))


@pytest.mark.parametrize(("shape", "weight_shape", "convolution"), [LINEAR, CONVOLUTION, GROUPED])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("draw", [None, Draw(3, 1 << 31)])
def test_output_and_all_gradients_are_those_of_the_parts(shape, weight_shape, convolution, rows, draw):
    g = torch.Generator().manual_seed(0)

    def inputs():
        g.manual_seed(0)
        made = {
            "x": torch.randn(shape, generator=g),
            "weight": torch.randn(weight_shape, generator=g),
            "bias": torch.randn(weight_shape[0], generator=g),
            "step": (torch.rand(rows, generator=g) * 0.1 + 0.05).view(-1, *[1] * (len(shape) - 1)),
            "zero": torch.full([rows, *[1] * (len(shape) - 1)], 7.0),
            "weight_step": torch.rand(weight_shape[0], generator=g) * 0.1 + 0.05,
        }
        return {name: tensor.requires_grad_() for name, tensor in made.items()}

    a, b = inputs(), inputs()
    grid, weight_grid = Grid(5, signed=False), Grid(4, signed=True)
    found = fake_quantized_layer(
        a["x"],
        a["weight"],
        a["bias"],
        Quantizer(a["step"], a["zero"], grid, draw),
        WeightQuantizer(a["weight_step"], weight_grid),
        convolution,
    )
    x = fake_quantize(b["x"], Quantizer(b["step"], b["zero"], grid, draw))
    by_channel = b["weight_step"].view(-1, *[1] * (len(weight_shape) - 1))
    weight = fake_quantize(b["weight"], Quantizer(by_channel, torch.zeros(()), weight_grid))
    expected = (
        F.linear(x, weight, b["bias"])
        if convolution is None
        else F.conv2d(x, weight, b["bias"], *convolution)
    )
    assert torch.equal(found, expected)
    up = torch.randn(found.shape, generator=g)
    found.backward(up)
    expected.backward(up)
    for name in a:
        torch.testing.assert_close(a[name].grad, b[name].grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(("shape", "weight_shape", "convolution"), [LINEAR, CONVOLUTION])
def test_within_autocast_products_are_of_its_format_and_rounding_is_not(shape, weight_shape, convolution):
    """Inputs and step sizes that bf16 holds exactly: then only sums differ."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=g).bfloat16()
    weight = torch.randn(weight_shape, generator=g, requires_grad=True)
    quantizer = Quantizer(torch.full((1,), 0.25), torch.full((1,), 7.0), Grid(5, signed=False))
    weight_step = torch.full([weight_shape[0]], 0.125)
    weight_quantizer = WeightQuantizer(weight_step, Grid(4, signed=True))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        item = x.detach().to(dtype, copy=True).requires_grad_()
        weight.grad = None
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            y = fake_quantized_layer(item, weight, None, quantizer, weight_quantizer, convolution)
        y.backward(torch.ones_like(y))
        found.append((y, item.grad, weight.grad))
    (y, by_x, by_weight), (low, low_by_x, low_by_weight) = found
    assert low.dtype == low_by_x.dtype == torch.bfloat16
    assert low_by_weight.dtype == torch.float32
    for full, half in ((y, low), (by_x, low_by_x), (by_weight, low_by_weight)):
        torch.testing.assert_close(half.float(), full, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [4, 8, 10, 16])
def test_half_precision_rounds_to_the_codes_of_fp32(dtype, bits):
    x = torch.randn(2, 3, 40).to(dtype)
    step, zero = torch.full((1, 1, 1), 8 / 2**bits), torch.full((1, 1, 1), 2.0 ** (bits - 1))
    quantizer = Quantizer(step, zero, Grid(bits, signed=False))
    rounded = fake_quantize(x, quantizer)
    assert torch.equal(rounded, fake_quantize(x.float(), quantizer).to(dtype))


def test_a_device_without_autocast_has_none():
    x, step = torch.ones(1, 2, device="meta"), torch.ones(1, 1, device="meta")
    quantizer = Quantizer(step, step, Grid(4, signed=False))
    y = fake_quantized_layer(x, torch.ones(3, 2, device="meta"), None, quantizer, None, None)
    assert y.shape == (1, 3)


def test_only_input_and_weight_are_kept_for_the_backward_pass():
    kept = []
    x, weight = torch.randn(2, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    quantizer = Quantizer(torch.ones(1, 1), torch.ones(1, 1), Grid(4, signed=False))
    weight_quantizer = WeightQuantizer(torch.ones(4), Grid(4, signed=True))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fake_quantized_layer(x, weight, None, quantizer, weight_quantizer, None)
    large = {t.data_ptr() for t in kept if t.numel() > 4}
    assert large == {x.data_ptr(), weight.data_ptr()}


def test_a_convolution_that_pads_with_other_than_zeros_is_refused():
    from sdquant_cli.quant.modules import quantized_layer

    with pytest.raises(NotImplementedError, match="reflect"):
        quantized_layer(
            nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), None, None, weights_on_grid=True
        )
