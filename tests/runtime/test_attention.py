"""The attention kernel against torch's, and where it is not asked."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sdquant_cli.native import attention as native
from sdquant_cli.runtime.attention import PackedAttention, attend, use_packed_attention

pytestmark = pytest.mark.skipif(not native.available(), reason="this CPU does not multiply bfloat16")


def plain(query, key, value, heads):
    """In fp64."""
    split = [t.double().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


@given(
    items=st.integers(1, 2),
    length=st.sampled_from([1, 5, 6, 7, 40]),
    given_=st.sampled_from([1, 2, 63, 64, 77, 512, 513, 1100]),
    heads=st.integers(1, 3),
    width=st.sampled_from([2, 8, 40, 64, 80, 96, 160, 256]),
    scale=st.sampled_from([0.01, 1.0, 30.0]),  # from equal weights to one that has all
)
def test_it_computes_what_torch_computes(items, length, given_, heads, width, scale):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(items, count, heads * width, generator=generator).bfloat16()
        for count in (length, given_, given_)
    )
    query = query * scale
    ours, exact = attend(query, key, value, heads).double(), plain(query, key, value, heads)
    rounded = 2.0**-7 * plain(query, key, value.abs(), heads)  # of weights and sum to 8 bits each
    assert bool(((ours - exact).abs() <= rounded).all())


def test_scores_far_apart_do_not_overflow():
    query = torch.full((1, 3, 8), 200.0).bfloat16()
    key = torch.stack([torch.full((8,), 200.0), torch.full((8,), -200.0)])[None].bfloat16()
    value = torch.tensor([[[1.0] * 8, [5.0] * 8]]).bfloat16()
    assert torch.equal(attend(query, key, value, 2), torch.ones(1, 3, 8).bfloat16())


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
    assert torch.equal(ours, expected) or dtype is torch.bfloat16
    assert float((ours - expected).norm() / expected.norm()) < 0.02
