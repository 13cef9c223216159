"""Inputs as rows of codes, against what torch computes before it rounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdquant_cli.native import codes as native
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.tokens import TokenQuantizer
from sdquant_cli.runtime import row_codes

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler here")


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3


def values(codes):
    """What codes (n,h,w,C) stand for."""
    low, high = codes.low.int(), 0 if codes.high is None else codes.high.int()
    rows = (low + 256 * high - codes.zero[:, None]) * codes.scale[:, None]
    return rows[:, : codes.channels].view(*codes.shape, codes.channels)


def check_prologue(x, prologue, expected):
    """Codes of 16 bits stand for what torch computes before it rounds."""
    found = values(row_codes.codes_of(x, TokenQuantizer(-1, Grid(16, signed=False)), None, prologue))
    reach = expected.float().amax(-1, keepdim=True) - expected.float().amin(-1, keepdim=True)
    assert bool(((found - expected.float()).abs() <= 2e-5 * (reach + expected.abs().amax())).all())


NORMED = st.sampled_from([(1, 1, 1, 8), (2, 5, 3, 40), (1, 9, 16, 320), (3, 1, 70, 24)])
DTYPES = st.sampled_from(row_codes.DTYPES)


@given(shape=NORMED, dtype=DTYPES, silu=st.booleans(), offset=st.sampled_from([0.0, 100.0]))
def test_a_group_norm_before_codes(shape, dtype, silu, offset):
    x = random(*shape) + offset
    x = x.to(dtype)
    norm = nn.GroupNorm(4, shape[-1], eps=1e-5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with torch.no_grad():
        expected = norm.double()(x.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        expected = nn.functional.silu(expected) if silu else expected
        check_prologue(x, row_codes.group_norm(norm.float(), x, silu=silu), expected)


@given(shape=NORMED, dtype=DTYPES, offset=st.sampled_from([0.0, 100.0]))
def test_a_layer_norm_before_codes(shape, dtype, offset):
    x = (random(*shape) + offset).to(dtype)
    norm = nn.LayerNorm(shape[-1])
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with torch.no_grad():
        expected = norm.double()(x.double())
        check_prologue(x, row_codes.layer_norm(norm.float()), expected)


@given(shape=NORMED, dtype=DTYPES, scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_a_gated_gelu_before_codes(shape, dtype, scale):
    x = (random(*shape) * scale).to(dtype)
    hidden, gate = x.double().chunk(2, dim=-1)
    check_prologue(x, row_codes.GATED, hidden * nn.functional.gelu(gate))


def test_other_channels_than_those_of_a_norm_are_refused():
    with pytest.raises(RuntimeError, match="expected an input of 8 channels, found 16"):
        row_codes.group_norm(nn.GroupNorm(4, 8), random(1, 2, 2, 16), silu=False)
    with pytest.raises(RuntimeError, match="found 16"):
        row_codes.codes_of(
            random(1, 2, 1, 16),
            TokenQuantizer(-1, Grid(8, False)),
            None,
            row_codes.layer_norm(nn.LayerNorm(8)),
        )
