"""Attention of a packed network in bfloat16 on a CPU: our kernel where torch's takes half of a call.

It goes where diffusers' own processor was, and hands back to that whatever it is not made for.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from ..models.attention import is_plain
from ..native import attention as native


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v (N,L,heads d) of bfloat16 q (N,L,heads d), k and v (N,S,heads d)."""
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    (n, length, channels), given = query.shape, key.shape[1]
    width = channels // heads
    out = torch.empty_like(query)
    addresses = (query.data_ptr(), key.data_ptr(), value.data_ptr(), out.data_ptr())
    native.attention(addresses, (n, length, given, heads, width), width**-0.5)
    return out


class PackedAttention(AttnProcessor2_0):
    """diffusers' processor with our kernel in it."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if attention_mask is not None or not _fits(attn, hidden_states):
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        projected: Tensor = attn.to_out[0](attend(query, key, value, attn.heads))
        return projected


def _fits(attn: Any, x: Tensor) -> bool:
    width = attn.inner_dim // attn.heads
    return (
        x.dtype is torch.bfloat16
        and x.device.type == "cpu"
        and x.dim() == 3
        and is_plain(attn)
        and not (torch.is_grad_enabled() and x.requires_grad)
        and width % 2 == 0
        and width <= native.MOST_CHANNELS
        and native.available()
    )


def use_packed_attention(network: nn.Module) -> None:
    """Put our processor where diffusers' default one is."""
    for module in network.modules():
        if isinstance(module, Attention) and type(module.processor) is AttnProcessor2_0:
            module.set_processor(PackedAttention())
