"""Layers by kernels of our own, against the reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdquant_cli.quant.format import NumberFormat
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.tokens import TokenQuantizer
from sdquant_cli.runtime import kernels, products, row_codes
from sdquant_cli.runtime.engines import reference
from sdquant_cli.types import Bits
from tests.runtime.packed_layers import largest_sum, outputs, packed_layer, saved_layer
from tests.threads import by_threads

pytestmark = pytest.mark.skipif(not products.available(), reason="no C compiler here")

FORMS = st.builds(
    NumberFormat,
    per_token=st.booleans(),
    full_range=st.booleans(),
    group_size=st.sampled_from([None, 8, 16, 64]),
    smoothing=st.booleans(),
)
BITS = st.builds(Bits, st.integers(2, 8), st.integers(2, 16))
HALF = {torch.float32: 0, torch.bfloat16: 2**-8, torch.float16: 2**-10}  # rounding of outputs


def random(*shape, dtype=torch.float32, seed=0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)


def agree(layer, bits, form, x, seed=0):
    """Whether the kernels give what the reference gives, up to rounding."""
    saved = saved_layer(layer, bits, 1, form, seed)
    twin = packed_layer(layer, saved, form)
    assert products.computes(twin)
    ours, expected = outputs(twin, x, kernels.Integer, reference)
    assert ours.dtype == x.dtype
    assert ours.shape == expected.shape
    error = (ours.double() - expected.double()).abs()
    rounding = 2 * HALF[x.dtype] * expected.double().abs()
    return bool((error <= rounding + 1e-6 * (largest_sum(saved, x.float()) + 1)).all())


@given(
    bits=BITS,
    form=FORMS,
    shape=st.sampled_from([(1,), (1, 1), (5,), (2, 7), (1, 130), (3, 2, 5)]),
    channels=st.sampled_from([1, 7, 33, 64, 320, 1100, 1152]),
    count=st.integers(1, 130),
    bias=st.booleans(),
    dtype=st.sampled_from(list(HALF)),
    seed=st.integers(0, 99),
)
def test_linear_layers(bits, form, shape, channels, count, bias, dtype, seed):
    layer = nn.Linear(channels, count, bias=bias)
    assert agree(layer, bits, form, random(*shape, channels, dtype=dtype, seed=seed), seed)


@given(
    bits=BITS,
    form=FORMS,
    batch=st.integers(1, 3),
    size=st.sampled_from([(1, 1), (1, 9), (6, 5), (13, 8)]),
    channels=st.sampled_from([1, 7, 33, 64, 320, 1100]),
    count=st.integers(1, 130),
    kernel=st.sampled_from([1, 3, (1, 3)]),
    stride=st.integers(1, 2),
    padding=st.sampled_from([0, 1, (2, 1)]),
    dilation=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_convolutions(bits, form, batch, size, channels, count, kernel, stride, padding, dilation, seed):
    layer = nn.Conv2d(channels, count, kernel, stride, padding, dilation, bias=seed % 2 == 0)
    h, w = (
        max(extent, dilation * (taps - 1) + 1 - 2 * around)
        for extent, taps, around in zip(size, layer.kernel_size, layer.padding, strict=True)
    )
    x = random(batch, channels, h, w, dtype=[torch.float32, torch.bfloat16][seed // 2 % 2], seed=seed)
    assert agree(layer, bits, form, x, seed)


TOKENS = NumberFormat(per_token=True, group_size=8, smoothing=True)
STATIC, W4A8 = NumberFormat(), Bits(4, 8)
both_forms = pytest.mark.parametrize("form", [STATIC, TOKENS])
LINEAR, CONVOLUTION = nn.Linear(48, 70), nn.Conv2d(48, 70, 3, stride=2, padding=(2, 1))
both_layers = pytest.mark.parametrize("layer", [LINEAR, CONVOLUTION])


def twin_of(layer, form=TOKENS, bits=W4A8):
    return packed_layer(layer, saved_layer(layer, bits, 1, form), form)


def computed(twin, x):
    return outputs(twin, x, kernels.Integer)[0]


def input_of(layer, items=3):
    return random(items, 11, 48) if layer is LINEAR else random(items, 48, 13, 8)


@both_forms
@both_layers
def test_the_number_of_threads_changes_no_bit(layer, form):
    twin, x = twin_of(layer, form), input_of(layer, 40)
    first, *others = by_threads(lambda: computed(twin, x))
    assert all(torch.equal(first, other) for other in others)


@both_forms
@both_layers
def test_a_batch_is_computed_as_its_items_are(layer, form):
    twin, x = twin_of(layer, form), input_of(layer, 20)
    assert torch.equal(computed(twin, x), torch.cat([computed(twin, item) for item in x.split(1)]))


@both_layers
def test_inputs_may_lie_anyhow_in_memory(layer):
    twin, x = twin_of(layer), input_of(layer)
    expected = computed(twin, x)
    lies = [x.transpose(1, 2).contiguous().transpose(1, 2), x.repeat_interleave(2, dim=-1)[..., ::2]]
    lies += [torch.cat([x, x])[3:], x.movedim(0, -1).contiguous().movedim(-1, 0)]
    if layer is CONVOLUTION:
        lies.append(x.contiguous(memory_format=torch.channels_last))
    assert all(torch.equal(computed(twin, other), expected) for other in lies)


@both_layers
@pytest.mark.parametrize("dtype", list(HALF))
def test_an_input_of_no_rows_has_no_outputs(layer, dtype):
    x = input_of(layer)[:0].to(dtype)
    y, expected = outputs(twin_of(layer), x, kernels.Integer, reference)
    assert y.shape == expected.shape
    assert y.dtype == dtype


@pytest.mark.parametrize("bits", [Bits(4, 8), Bits(8, 16)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@both_layers
def test_what_is_no_number_reaches_the_rows_that_read_it_and_no_others(layer, bad, bits):
    twin, x = twin_of(layer, bits=bits), input_of(layer)
    expected, harmed = computed(twin, x), torch.zeros_like(x)
    place = (1, 4, 47) if layer is LINEAR else (1, 47, 5, 6)
    x[place], harmed[place] = bad, 1
    ones = {"weight": torch.ones_like(layer.weight), "bias": torch.zeros_like(layer.bias)}
    reached = torch.func.functional_call(layer, ones, harmed) > 0.5
    y = computed(twin, x)
    assert torch.equal(y.isfinite(), ~reached)
    assert torch.equal(y[~reached], expected[~reached])
    assert torch.equal(outputs(twin, x, reference)[0].isfinite(), ~reached)


@both_layers
def test_given_a_scale_infinite_values_are_the_ends_of_the_grid(layer):
    x = input_of(layer)
    x[1, 4], x[2, 5] = torch.inf, -torch.inf
    assert agree(layer, Bits(8, 8), STATIC, x)


@both_layers
def test_given_a_scale_what_is_no_number_stays_so(layer):
    x = input_of(layer)
    saved = saved_layer(layer, Bits(8, 8), 1, STATIC, 0)
    twin = packed_layer(layer, saved, STATIC)
    x.view(-1)[7] = torch.nan
    ours, expected = outputs(twin, x, kernels.Integer, reference)
    assert torch.equal(ours.isnan(), expected.isnan())
    assert ours.isnan().any()


def test_huge_kernels_and_groups_of_channels_are_left_to_another_engine():
    others = nn.Conv2d(8, 8, 9, padding=4), nn.Conv2d(8, 8, 3, groups=2)
    assert not any(products.computes(twin_of(layer, STATIC)) for layer in others)
    assert products.computes(twin_of(nn.Conv2d(8, 8, 8), STATIC))


def test_an_image_smaller_than_the_kernel_is_refused():
    with pytest.raises(RuntimeError, match="an image of 2 pixels is smaller than the kernel"):
        computed(twin_of(nn.Conv2d(8, 8, 3)), random(1, 8, 2, 5))


@both_layers
def test_weights_may_be_held_channels_last(layer):
    """As pipelines are told to hold them: `unet.to(memory_format=torch.channels_last)`."""
    twin, x = twin_of(layer, bits=Bits(8, 8)), input_of(layer)
    expected = computed(twin, x)
    assert torch.equal(computed(twin.to(memory_format=torch.channels_last), x), expected)


@both_layers
@pytest.mark.parametrize("channels", [1, 40, 47, 56])
def test_an_input_of_other_channels_is_refused(layer, channels):
    with pytest.raises(RuntimeError, match=f"48 channels, found {channels}"):
        computed(twin_of(layer), random(3, *([channels] if layer is LINEAR else [channels, 5, 5])))


@pytest.mark.parametrize("dtype", row_codes.DTYPES)
@both_layers
def test_layers_share_codes_and_add_to_their_outputs(layer, dtype):
    x, twin = input_of(layer).to(dtype), twin_of(layer)
    rows = x.reshape(-1, 1, 1, 48) if layer is LINEAR else x.permute(0, 2, 3, 1).contiguous()
    codes = row_codes.codes_of(rows, TokenQuantizer(-1, Grid(8, signed=False)), twin.smoothing)
    product = products.Product(twin)
    plain = product(codes, torch.float32)
    assert torch.equal(product(codes, dtype), plain.to(dtype))
    residual, addend = random(*plain.shape, dtype=dtype, seed=1), random(len(plain), 70, seed=2)
    y = product(codes, dtype, residual, addend)
    expected = (plain + addend[:, None, None] + residual).to(dtype)
    torch.testing.assert_close(y, expected, rtol=2 * HALF[dtype] or 1e-5, atol=1e-4)


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 3, groups=2), nn.Linear(12, 8)])
def test_other_layers_are_left_to_another_engine(layer):
    form = NumberFormat(per_token=True, group_size=4)
    assert not products.computes(packed_layer(layer, saved_layer(layer, Bits(4, 8), 0, form), form))
