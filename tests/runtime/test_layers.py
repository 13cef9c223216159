"""A packed layer computes what the quantized layer that specifies it computes, on every engine."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdquant_cli.quant.format import PAPER, NumberFormat
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.modules import quantized_layer
from sdquant_cli.quant.relaxing import RelaxedRows
from sdquant_cli.quant.rows import Rows
from sdquant_cli.runtime import engines
from sdquant_cli.runtime.layers import PackedSpec, packed
from sdquant_cli.types import Bits
from tests.runtime.packed_layers import largest_sum, saved_layer

TIMESTEPS = [900.0, 500.0, 100.0]
ENGINES = [engines.reference, engines.dequantized, engines.integer]
FORMS = [
    PAPER,
    NumberFormat(per_token=True),
    NumberFormat(group_size=8, full_range=True),
    NumberFormat(per_token=True, full_range=True, group_size=8),
]


class Network(nn.Module):
    """A layer that is called as a denoiser is."""

    def __init__(self, layer, rows):
        super().__init__()
        self.layer = layer
        rows.follow(self)

    def forward(self, x, timestep):
        return self.layer(x)


def both(layer, bits, engine, form=PAPER, *, text_fed=False, relaxed=None):
    """The specification and the packed layer, each in a network of its own, and a test of closeness."""
    tables = 0 if form.per_token else 1 if text_fed else len(TIMESTEPS)
    saved = saved_layer(layer, bits, tables, form)
    specified_rows, packed_rows = Rows(TIMESTEPS), Rows(TIMESTEPS)
    twin = packed(layer, PackedSpec(bits, form, tables, text_fed, relaxed), packed_rows)
    twin.fill(saved)
    twin.use(engine)
    layer = copy.deepcopy(layer)
    layer.weight.data = saved.weight()
    specified = quantized_layer(layer, saved.layer_state(form, relaxed), specified_rows, weights_on_grid=True)
    networks = Network(specified, specified_rows).requires_grad_(False), Network(twin, packed_rows)
    return *networks, partial(close, saved=saved)


def close(x, ours, specified, saved):
    """Up to rounding in fp32 of sums as large as the largest codes make them."""
    return float((ours - specified).abs().max()) < 1e-6 * (largest_sum(saved, x) + 1)


BITS = st.builds(Bits, st.integers(2, 8), st.integers(2, 16))


@pytest.mark.parametrize("engine", ENGINES)
@given(
    bits=BITS,
    shape=st.sampled_from([(1, 8), (5, 33), (2, 7, 16)]),
    outputs=st.integers(1, 40),
    bias=st.booleans(),
    timestep=st.sampled_from(TIMESTEPS),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
    form=st.sampled_from(FORMS),
    smoothing=st.booleans(),
)
def test_linear(engine, bits, shape, outputs, bias, timestep, scale, form, smoothing):
    layer = nn.Linear(shape[-1], outputs, bias=bias)
    specified, ours, agree = both(layer, bits, engine, replace(form, smoothing=smoothing))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scale
    with torch.no_grad():
        t = torch.tensor([timestep])
        assert agree(x, ours(x, t), specified(x, t))


@pytest.mark.parametrize("engine", ENGINES)
@given(
    bits=BITS,
    channels=st.sampled_from([(4, 8, 1), (3, 5, 1), (16, 32, 1), (8, 12, 2), (33, 17, 1)]),
    kernel=st.sampled_from([1, 3, (1, 3)]),
    stride=st.integers(1, 2),
    padding=st.sampled_from([0, 1, (2, 1)]),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    size=st.sampled_from([(6, 5), (8, 7), (16, 16)]),
    timestep=st.sampled_from(TIMESTEPS),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
    form=st.sampled_from(FORMS),
    smoothing=st.booleans(),
)
def test_convolution(
    engine, bits, channels, kernel, stride, padding, dilation, bias, size, timestep, scale, form, smoothing
):
    inputs, outputs, groups = channels
    layer = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias,
    )
    specified, ours, agree = both(layer, bits, engine, replace(form, smoothing=smoothing))
    x = torch.randn(2, inputs, *size, generator=torch.Generator().manual_seed(1)) * scale
    with torch.no_grad():
        t = torch.tensor([timestep])
        assert agree(x, ours(x, t), specified(x, t))
        smaller = x[:1, :, 1:]  # another size: what was prepared does not serve
        assert agree(smaller, ours(smaller, t), specified(smaller, t))


@pytest.mark.parametrize("engine", ENGINES)
def test_items_at_steps_of_their_own(engine):
    specified, ours, agree = both(nn.Conv2d(4, 8, 3, padding=1), Bits(4, 8), engine)
    x, t = torch.randn(3, 4, 6, 6), torch.tensor([100.0, 900.0, 100.0])
    with torch.no_grad():
        assert agree(x, ours(x, t), specified(x, t))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layer", [nn.Linear(16, 8), nn.Conv2d(4, 8, 3, padding=1)])
def test_relaxed_steps_have_wider_codes(engine, layer):
    last = RelaxedRows(torch.tensor([False, False, True]), Grid(10, signed=False))
    specified, ours, agree = both(layer, Bits(4, 8), engine, relaxed=last)
    narrow, _, _ = both(layer, Bits(4, 8), engine)
    x = torch.randn(3, 16) if isinstance(layer, nn.Linear) else torch.randn(3, 4, 6, 6)
    x = x * 100  # most of it beyond what 8 bits hold
    with torch.no_grad():
        for t in (torch.tensor([900.0]), torch.tensor([100.0]), torch.tensor([100.0, 900.0, 100.0])):
            assert agree(x, ours(x, t), specified(x, t))
            assert agree(x, ours(x, t), narrow(x, t)) == (t.tolist() == [900.0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 47), (torch.float16, 63)])
@pytest.mark.parametrize("activations", range(4, 17))
@pytest.mark.parametrize("layer", [nn.Linear(64, 48), nn.Conv2d(16, 24, 3, padding=1)])
def test_all_ways_agree_in_half_precision(engine, dtype, least, activations, layer):
    """Codes are found in fp32, so that what is left is the rounding of operands and results to the dtype."""
    specified, ours, _ = both(
        layer, Bits(8, activations), engine, replace(PAPER, smoothing=activations % 2 == 0)
    )
    shape = (2, 64) if isinstance(layer, nn.Linear) else (2, 16, 9, 9)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([500.0])
    with torch.no_grad():
        exact = specified(x.to(dtype).float(), t)
        for network in (in_dtype(specified, dtype), copy.deepcopy(ours).to(dtype)):
            answer = network(x.to(dtype), t)
            assert answer.dtype == dtype
            noise = (answer.float() - exact).square().sum()
            assert 10 * torch.log10(exact.square().sum() / noise) > least


def in_dtype(network, dtype):
    """A quantized network whose weights and bias are of a dtype, as `restore` makes it."""
    half = copy.deepcopy(network)
    for parameter in (half.layer.weight, half.layer.bias):
        parameter.data = parameter.to(dtype)
    return half


def test_half_precision_keeps_the_tables():
    _, ours, _ = both(nn.Conv2d(4, 8, 3, padding=1), Bits(4, 8), engines.engine_for(None))
    x, t = torch.randn(2, 4, 6, 6), torch.tensor([500.0])
    with torch.no_grad():
        whole = ours(x, t)
        half = copy.deepcopy(ours).to(torch.bfloat16)
        assert half.layer.weight_step.dtype == half.layer.activation_step.dtype == torch.float32
        answer = half(x.bfloat16(), t)
    assert answer.dtype == torch.bfloat16
    assert float((answer - whole).abs().max() / whole.abs().max()) < 0.05


def test_the_answer_to_a_text_is_computed_once():
    calls = []

    def counting(layer):
        run = engines.dequantized(layer)
        return lambda *told: calls.append(1) or run(*told)

    _, ours, _ = both(nn.Linear(8, 4), Bits(4, 8), counting, text_fed=True)
    text = torch.randn(2, 3, 8)
    with torch.no_grad():
        first = ours(text, torch.tensor([900.0]))
        assert torch.equal(ours(text, torch.tensor([500.0])), first)
        assert len(calls) == 1
        text += 1
        assert not torch.equal(ours(text, torch.tensor([500.0])), first)
        ours(text.clone(), torch.tensor([500.0]))
    assert len(calls) == 3
    with torch.inference_mode():
        text = torch.randn(2, 3, 8)
        first = ours(text, torch.tensor([900.0]))
        text += 1
        assert not torch.equal(ours(text, torch.tensor([900.0])), first)
