"""Packed layers as CUDA computes them, by interpreted kernels, against the reference."""

import copy

import pytest
import torch
from torch import nn

from sdquant_cli.quant.format import NumberFormat
from sdquant_cli.runtime import engines, kernels
from sdquant_cli.runtime.engines import reference
from sdquant_cli.types import Bits
from tests.runtime.packed_layers import largest_sum, outputs, packed_layer, saved_layer
from tests.runtime.test_products import CONVOLUTION, HALF, LINEAR, both_layers, input_of, random, twin_of

pytestmark = pytest.mark.usefixtures("interpreted")

STATIC, TOKENS = NumberFormat(), NumberFormat(per_token=True, full_range=True)
GROUPS = NumberFormat(per_token=True, group_size=16, smoothing=True)
all_forms = pytest.mark.parametrize("form", [STATIC, TOKENS, GROUPS], ids=["static", "tokens", "groups"])
LAYERS = [
    (nn.Linear(320, 40), (2, 7, 320)),
    (nn.Linear(33, 5, bias=False), (1, 33)),
    (nn.Linear(7, 1), (5, 7)),
    (nn.Conv2d(48, 20, 3, padding=1), (2, 48, 4, 5)),
    (nn.Conv2d(33, 20, 3, stride=2, padding=1, bias=False), (1, 33, 7, 4)),
    (nn.Conv2d(40, 9, 1), (2, 40, 3, 5)),
    (nn.Conv2d(40, 9, (1, 3), padding=(1, 2), dilation=(1, 2)), (1, 40, 3, 5)),
]


def agree(layer, bits, form, x):
    """Whether the kernels give what the reference gives, up to rounding."""
    saved = saved_layer(layer, bits, 1, form)
    ours, expected = outputs(packed_layer(layer, saved, form), x, kernels.Integer, reference)
    assert (ours.dtype, ours.shape) == (x.dtype, expected.shape)
    error = (ours.double() - expected.double()).abs()
    rounding = 2 * HALF[x.dtype] * expected.double().abs()
    return bool((error <= rounding + 1e-6 * (largest_sum(saved, x.float()) + 1)).all())


@all_forms
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_layers(layer, shape, form):
    for bits in (Bits(8, 8), Bits(3, 6)):
        assert agree(layer, bits, form, random(*shape))


@all_forms
@both_layers
@pytest.mark.parametrize("bits", [Bits(8, 12), Bits(4, 16)])
def test_codes_above_8_bits(layer, form, bits):
    assert agree(layer, bits, form, input_of(layer))


@both_layers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(layer, dtype):
    assert agree(layer, Bits(4, 8), TOKENS, input_of(layer).to(dtype))


@all_forms
@both_layers
def test_inputs_and_weights_may_be_held_channels_last_or_in_parts(layer, form):
    twin, x = twin_of(layer, form, Bits(8, 8)), input_of(layer)
    y = outputs(twin, x, engines.integer)[0]
    if layer is CONVOLUTION:
        x, twin = (part.to(memory_format=torch.channels_last) for part in (x, twin))
    else:
        x = torch.stack([x, x + 1], dim=-1)[..., 0]
    assert torch.equal(outputs(twin, x, engines.integer)[0], y)


@both_layers
@pytest.mark.parametrize("form", [STATIC, TOKENS], ids=["static", "tokens"])
def test_a_batch_is_computed_as_its_items_are(layer, form):
    twin, x = twin_of(layer, form), input_of(layer)
    alone = [outputs(twin, item, engines.integer)[0] for item in x.split(1)]
    assert torch.equal(outputs(twin, x, engines.integer)[0], torch.cat(alone))


@both_layers
@pytest.mark.parametrize("form", [STATIC, TOKENS], ids=["static", "tokens"])
@pytest.mark.parametrize("place", [0, 777])
def test_what_is_no_number_reaches_the_outputs_that_read_it(layer, form, place):
    twin, x = twin_of(layer, form, Bits(8, 16)), input_of(layer)
    x.view(-1)[place] = torch.nan
    ours, expected = outputs(twin, x, engines.integer, reference)
    assert bool(ours.isnan().any())
    assert torch.equal(ours.isnan(), expected.isnan())


def test_an_input_of_no_rows_has_no_outputs():
    for layer in (LINEAR, CONVOLUTION):
        y, expected = outputs(twin_of(layer), input_of(layer)[:0], engines.integer, reference)
        assert y.shape == expected.shape


def test_an_image_smaller_than_the_kernel_and_other_channels_are_refused():
    with pytest.raises(RuntimeError, match="an image of 2 pixels is smaller than the kernel"):
        outputs(twin_of(nn.Conv2d(8, 8, 3)), random(1, 8, 2, 5), engines.integer)
    with pytest.raises(RuntimeError, match="48 channels, found 40"):
        outputs(twin_of(LINEAR), random(3, 40), engines.integer)


def test_convolutions_of_several_groups_are_left_to_another_engine():
    twin = twin_of(nn.Conv2d(8, 8, 3, groups=2), STATIC)
    assert not kernels.computes(twin)
    x = random(1, 8, 5, 5)
    ours, expected = outputs(twin, x, engines.integer, reference)
    torch.testing.assert_close(ours, expected)


def test_a_weight_of_whole_depths_is_not_copied():
    layer = nn.Linear(128, 8)
    twin = twin_of(layer, TOKENS, Bits(8, 8))
    assert kernels.product(twin).weight.codes.data_ptr() == twin.weight.data_ptr()


@pytest.mark.parametrize("bits", [Bits(8, 8), Bits(4, 8), Bits(3, 8)])
@pytest.mark.parametrize("layer", [nn.Linear(70, 5), nn.Conv2d(33, 5, 3), nn.Conv2d(128, 5, (1, 3))])
@pytest.mark.parametrize("form", [TOKENS, GROUPS], ids=["tokens", "groups"])
def test_a_weight_is_held_once_as_the_kernels_read_it_and_saved_as_it_was(layer, bits, form):
    twin = twin_of(layer, form, bits)
    codes, saved = twin.codes().clone(), {name: t.clone() for name, t in twin.state_dict().items()}
    twin.use(engines.integer)
    held = twin.prepared().product.weight.codes
    assert held.data_ptr() == twin.weight.data_ptr()
    assert twin.weight.dim() == layer.weight.dim()
    assert torch.equal(twin.codes(), codes)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in twin.state_dict().items())
    copied = copy.deepcopy(twin)
    moved = twin.to(memory_format=torch.channels_last) if layer.weight.dim() == 4 else twin.to("cpu")
    for other in (copied, moved):
        assert torch.equal(other.weight, saved["weight"])
        assert torch.equal(other.codes(), codes)
