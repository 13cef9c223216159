"""Rounding by the Triton kernels, interpreted, is that of plain torch bit for bit; sums up to their order."""

import pytest
import torch

from sdquant_cli.native import cuda
from sdquant_cli.quant import on_cuda, rounding
from sdquant_cli.quant.drop import Draw
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.rounding import Quantizer, plain_gradients, plain_values
from sdquant_cli.quant.tokens import TokenQuantizer

pytest.importorskip("triton", reason="no Triton here")

DRAWS = [None, Draw(2**32 - 5, 2**31), Draw(1, 2**30)]
SHAPES = [(1, 1), (3, 40), (2, 3, 5, 7), (2, 1500)]


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setattr(cuda, "interpreted", True)


@pytest.fixture
def launched(monkeypatch):
    """The names of what was computed by the kernels."""
    calls = []
    for name in ("rounded", "gradients", "rounded_tokens"):
        kernel = getattr(on_cuda, name)
        monkeypatch.setattr(on_cuda, name, lambda *a, k=kernel, n=name: calls.append(n) or k(*a))
    return calls


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2


def quantizer_of(x, grid, draw, *, each):
    """A quantizer with a scale for each row, of both signs, or with one for all."""
    rows = len(x) if each else 1
    scale = (torch.rand(rows, generator=torch.Generator().manual_seed(1)) + 0.05) * 0.3
    scale = scale * (-1.0) ** torch.arange(rows)
    zero = torch.full([rows], 0.0 if grid.signed else 7.0)
    shape = [rows, *[1] * (x.dim() - 1)]
    return Quantizer(scale.view(shape), zero.view(shape), grid, draw)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("grid", "each"), [(Grid(4, signed=True), True), (Grid(8, signed=False), False)])
def test_values_and_gradients(shape, draw, grid, each, launched):
    x, up = random(*shape), random(*shape, seed=2)
    quantizer = quantizer_of(x, grid, draw, each=each)
    assert torch.equal(rounding.round_values(x, quantizer), plain_values(x, quantizer))
    to_x, to_scale = rounding.round_gradients(x, up, quantizer, to_scale=True)
    expected, of_scale = plain_gradients(x, up, quantizer, to_scale=True)
    assert torch.equal(to_x, expected)
    torch.testing.assert_close(to_scale, of_scale, rtol=1e-5, atol=1e-4)
    assert launched == ["rounded", "gradients"]


@pytest.mark.parametrize("memory", ["channels last", "channels first"])
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("bits", [4, 16])
def test_tokens_and_pixels(memory, draw, bits, launched):
    x, grid = random(2, 70, 5, 3), Grid(bits, signed=False)
    x[0, :, 1, 1] = 0
    if memory == "channels last":
        x = x.to(memory_format=torch.channels_last)
    quantizer = TokenQuantizer(1, grid, draw)
    assert torch.equal(quantizer.values(x), plain_values(x, quantizer.parameters(x)))
    linear = TokenQuantizer(-1, grid, draw)
    y = random(3, 4, 33)
    assert torch.equal(linear.values(y), plain_values(y, linear.parameters(y)))
    expected = 1 if memory == "channels last" and draw is not None else 2  # a draw counts values in order
    assert len(launched) == expected


def test_what_is_no_number_stays_so():
    x = random(3, 40)
    x[1, 7] = torch.nan
    quantizer = quantizer_of(x, Grid(8, signed=False), None, each=False)
    found = rounding.round_values(x, quantizer)
    assert torch.equal(found.isnan(), x.isnan())
    _, to_scale = rounding.round_gradients(x, torch.ones_like(x), quantizer, to_scale=True)
    assert bool(to_scale.isnan().all())
    with_token_scales = TokenQuantizer(-1, Grid(8, signed=False)).values(x)
    assert bool(with_token_scales[1].isnan().all())
    assert bool(with_token_scales[[0, 2]].isfinite().all())


def test_tensors_on_two_devices_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(cuda, "interpreted", False)
    assert not on_cuda.takes(random(2))
    monkeypatch.setattr(cuda, "interpreted", True)
    assert on_cuda.takes(random(2))
    assert not on_cuda.takes(random(2), torch.empty(2, device="meta"))
