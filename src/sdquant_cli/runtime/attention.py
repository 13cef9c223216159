"""Attention of a packed network: on a CPU by a native kernel where there is one, elsewhere by torch.

torch's attention takes half of a call in bf16, and a quarter in fp32. The processor here replaces diffusers'
default one, and calls it for attentions with more than projections and products.
"""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.attention import is_plain
from ..native import attention as native

KERNELS = {torch.bfloat16: "bf16", torch.float32: "fp32"}


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v (N,L,heads d) of q (N,L,heads d), k and v (N,S,heads d)."""
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    n, length, channels = query.shape
    keys = key.shape[1]
    width = channels // heads
    out = torch.empty_like(query)
    addresses = (query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr())
    native.attention(KERNELS[query.dtype], addresses, (n, length, keys, heads, width), width**-0.5)
    return out


class PackedAttention(AttnProcessor2_0):
    """diffusers' attention processor, with the native kernel for plain attention."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        """Compute plain attention, and any other as diffusers does."""
        if attention_mask is not None or hidden_states.dim() != 3 or not is_plain(attn):
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        projected: Tensor = attn.to_out[0](attended(attn, query, key, value))
        return projected


def attended(attn: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the attention of q (N,L,C), k and v (N,S,C), by the kernel where it supports them."""
    if _is_supported(attn, query):
        return attend(query, key, value, attn.heads)
    query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _is_supported(attn: Attention, query: Tensor) -> bool:
    width = attn.inner_dim // attn.heads
    return (
        query.dtype in KERNELS
        and query.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and query.requires_grad)
        and width % 2 == 0
        and width <= native.MOST_CHANNELS
        and native.available(KERNELS[query.dtype])
    )


def use_packed_attention(network: nn.Module) -> None:
    """Replace diffusers' default attention processors by the one with the kernel."""
    for module in network.modules():
        if isinstance(module, Attention) and type(module.processor) is AttnProcessor2_0:
            module.set_processor(PackedAttention())
