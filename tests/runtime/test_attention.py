"""The attention kernels against torch's, and where it is not asked."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sdquant_cli.native import attention as native
from sdquant_cli.runtime.attention import KERNELS, PackedAttention, attend, use_packed_attention

DTYPES = [dtype for dtype, name in KERNELS.items() if native.available(name)]
pytestmark = pytest.mark.skipif(not DTYPES, reason="this CPU has AVX512 without bfloat16, or not even AVX2")
ROUNDING = {torch.bfloat16: 2.0**-7, torch.float32: 2.0**-19}  # of weights and sums


def plain(query, key, value, heads):
    """In fp64."""
    split = [t.double().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    items=st.integers(1, 2),
    length=st.sampled_from([1, 5, 6, 7, 40, 97]),
    given_=st.sampled_from([1, 2, 63, 64, 77, 480, 512, 513, 1100]),
    heads=st.integers(1, 3),
    width=st.sampled_from([2, 6, 8, 40, 64, 80, 96, 160, 256]),
    scale=st.sampled_from([0.01, 1.0, 30.0]),  # from equal weights to one that has all
)
def test_it_computes_what_torch_computes(dtype, items, length, given_, heads, width, scale):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(items, count, heads * width, generator=generator).to(dtype)
        for count in (length, given_, given_)
    )
    query = query * scale
    ours, exact = attend(query, key, value, heads).double(), plain(query, key, value, heads)
    of_scores = scale * 2.0**-18  # which are sums in fp32
    rounded = (ROUNDING[dtype] + of_scores) * plain(query, key, value.abs(), heads)
    assert bool(((ours - exact).abs() <= rounded).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_far_apart_do_not_overflow(dtype):
    query = torch.full((1, 3, 8), 200.0).to(dtype)
    key = torch.stack([torch.full((8,), 200.0), torch.full((8,), -200.0)])[None].to(dtype)
    value = torch.tensor([[[1.0] * 8, [5.0] * 8]]).to(dtype)
    assert torch.equal(attend(query, key, value, 2), torch.ones(1, 3, 8).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_other_items_change_nothing(dtype):
    query, key, value = (torch.randn(3, count, 80).to(dtype) for count in (200, 500, 500))
    threads, outputs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outputs.append(attend(query, key, value, 2))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(attend(query[1:2], key[1:2], value[1:2], 2), outputs[0][1:2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_number_that_is_not_finite_stays_in_its_row(dtype):
    query, key, value = (torch.randn(1, 20, 16).to(dtype) for _ in range(3))
    query[0, 7] = torch.nan
    broken = ~attend(query, key, value, 2).isfinite().all(-1)[0]
    assert broken.nonzero().tolist() == [[7]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_processor_is_the_default_one_computed_otherwise(dtype):
    torch.manual_seed(0)
    layer = Attention(32, cross_attention_dim=24, heads=4, dim_head=8).to(dtype).eval()
    x, text = torch.randn(2, 9, 32).to(dtype), torch.randn(2, 5, 24).to(dtype)
    assert type(layer.processor) is AttnProcessor2_0
    with torch.no_grad():
        expected = layer(x, text)
        masked = layer(x, text, attention_mask=torch.zeros(2, 1, 5).to(dtype))
        use_packed_attention(layer)
        assert type(layer.processor) is PackedAttention
        ours = layer(x, text)
        assert torch.equal(layer(x, text, attention_mask=torch.zeros(2, 1, 5).to(dtype)), masked)
    assert torch.equal(ours, expected) or dtype in DTYPES
    assert float((ours - expected).norm() / expected.norm()) < 4 * ROUNDING[dtype]
