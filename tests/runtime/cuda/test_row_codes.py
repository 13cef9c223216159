"""Inputs as rows of codes by interpreted kernels: plain inputs bit for bit, norms against torch in fp64."""

import pytest
import torch
from torch import nn

from sdquant_cli.quant.grid import Grid, quantize
from sdquant_cli.quant.tokens import TokenQuantizer
from sdquant_cli.runtime.layers import TableQuantizer
from sdquant_cli.runtime.row_codes import GATED

row_codes = pytest.importorskip("sdquant_cli.runtime.cuda.row_codes", reason="no Triton here")

FINE = TokenQuantizer(-1, Grid(16, signed=False))
SHAPES = [(1, 1, 1, 8), (2, 5, 3, 40), (3, 1, 70, 24), (1, 7, 5, 320)]
shapes = pytest.mark.parametrize("shape", SHAPES)
dtypes = pytest.mark.parametrize("dtype", row_codes.DTYPES)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """Many rows in each, which the interpreter is fast with."""
    monkeypatch.setattr(row_codes, "PROGRAM", 32768)


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3


def codes(found):
    """The codes (n,h,w,C) that were written, as integers."""
    n, h, w = found.shape
    planes = [found.low] if found.high is None else [found.low, found.high]
    rows = [plane[: n * h * w * found.line].view(n, h, w, found.line).int() + 128 for plane in planes]
    whole = rows[0] if len(rows) == 1 else rows[0] + 256 * rows[1]
    return whole[..., : found.channels]


def values(found):
    """What codes stand for, (n,h,w,C)."""
    zero, scale = (part.view(*found.shape, 1) for part in (found.zero, found.scale))
    return (codes(found) - zero) * scale


@shapes
@dtypes
@pytest.mark.parametrize("bits", [3, 8, 16])
def test_codes_scales_and_zero_points_are_those_of_the_specification(shape, dtype, bits):
    x = random(*shape).to(dtype)
    x[0, 0, 0] = 0  # a row of zeros
    x[-1, -1, -1] = x[-1, -1, -1].abs() * 1e3  # one without a value below zero
    quantizer = TokenQuantizer(-1, Grid(bits, signed=False))
    scale, zero, grid, _ = quantizer.parameters(x.float())
    found = row_codes.codes_of(x, quantizer, None)
    assert torch.equal(found.scale, scale.flatten())
    assert torch.equal(found.zero, zero.flatten().int())
    assert torch.equal(codes(found), quantize(x.float(), scale, zero, grid).int())


@shapes
@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("each", [False, True], ids=["one timestep", "a timestep for each item"])
def test_scales_are_read_from_tables_by_the_row_of_a_timestep(shape, bits, each):
    x, items = random(*shape), shape[0]
    table, zeros = torch.tensor([0.5, 0.01, 0.1]), torch.tensor([100, 0, 2**bits - 1], dtype=torch.int32)
    row = torch.arange(items) % 3 if each else torch.tensor([1])
    found = row_codes.codes_of(x, TableQuantizer(table, zeros, row, bits), None)
    scale, zero = (part[row].expand(items).view(-1, 1, 1, 1) for part in (table, zeros))
    assert torch.equal(codes(found), quantize(x, scale, zero, Grid(bits, signed=False)).int())
    assert torch.equal(found.scale.view(shape[:3]), scale[..., 0].expand(shape[:3]))


@dtypes
def test_channels_are_smoothed_before_they_are_rounded(dtype):
    x, smoothing = random(2, 5, 3, 40).to(dtype), torch.linspace(0.5, 2, 40)
    quantizer = TokenQuantizer(-1, Grid(8, signed=False))
    found = row_codes.codes_of(x, quantizer, smoothing)
    expected = row_codes.codes_of(x.float() * smoothing, quantizer, None)
    assert torch.equal(codes(found), codes(expected))


def check_prologue(x, prologue, expected):
    """Codes of 16 bits stand for what torch computes before it rounds."""
    found = values(row_codes.codes_of(x, FINE, None, prologue))
    reach = expected.amax(-1, keepdim=True) - expected.amin(-1, keepdim=True)
    assert bool(((found - expected).abs() <= 2e-5 * (reach + expected.abs().amax())).all())


def with_numbers(norm):
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.requires_grad_(False)


@shapes
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize(("dtype", "silu"), list(zip(row_codes.DTYPES, [False, True, True], strict=True)))
def test_a_group_norm_before_codes(shape, dtype, offset, silu):
    x, norm = (random(*shape) + offset).to(dtype), with_numbers(nn.GroupNorm(4, shape[-1], eps=1e-5))
    expected = norm.double()(x.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    expected = nn.functional.silu(expected) if silu else expected
    check_prologue(x, row_codes.group_norm(norm.float(), x, silu=silu), expected)


def test_a_group_norm_of_many_rows():
    x, norm = (
        random(1, 70, 40, 8) + 5,
        with_numbers(nn.GroupNorm(2, 8)),
    )  # more blocks than are summed at once
    expected = norm.double()(x.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    check_prologue(x, row_codes.group_norm(norm.float(), x, silu=False), expected)


@shapes
@dtypes
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_layer_norm_before_codes(shape, dtype, offset):
    x, norm = (random(*shape) + offset).to(dtype), with_numbers(nn.LayerNorm(shape[-1]))
    expected = norm.double()(x.double())
    check_prologue(x, row_codes.layer_norm(norm.float()), expected)


def test_norms_hold_their_numbers_in_any_dtype():
    x, norm = random(1, 2, 3, 16).bfloat16(), with_numbers(nn.LayerNorm(16)).bfloat16()
    expected = nn.functional.layer_norm(x.double(), [16], norm.weight.double(), norm.bias.double())
    check_prologue(x, row_codes.layer_norm(norm), expected)


@shapes
@dtypes
@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_a_gated_gelu_before_codes(shape, dtype, scale):
    x = (random(*shape) * scale).to(dtype)
    hidden, gate = x.double().chunk(2, dim=-1)
    check_prologue(x, GATED, hidden * nn.functional.gelu(gate))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, by which Triton interprets
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_with_what_is_no_number_has_no_finite_value(bad):
    x = random(1, 4, 3, 24)
    expected = values(row_codes.codes_of(x, FINE, None))
    x[0, 1, 2, 5] = bad
    found = values(row_codes.codes_of(x, FINE, None))
    harmed = torch.zeros(1, 4, 3, dtype=torch.bool)
    harmed[0, 1, 2] = True
    assert not found[harmed].isfinite().any()
    assert torch.equal(found[~harmed], expected[~harmed])


def test_other_channels_than_those_of_a_norm_are_refused():
    with pytest.raises(RuntimeError, match="expected an input of 8 channels, found 16"):
        row_codes.group_norm(nn.GroupNorm(4, 8), random(1, 2, 2, 16), silu=False)
    with pytest.raises(RuntimeError, match="found 16"):
        row_codes.codes_of(random(1, 2, 1, 16), FINE, None, row_codes.layer_norm(nn.LayerNorm(8)))


def test_a_batch_of_other_items_than_timesteps_is_refused():
    table = TableQuantizer(torch.ones(3), torch.zeros(3, dtype=torch.int32), torch.tensor([0, 1]), 8)
    with pytest.raises(RuntimeError, match="a batch of 3 items has 2 timesteps"):
        row_codes.codes_of(random(3, 2, 2, 8), table, None)
