"""Attention with its matrix products in the open: q, k, v and the probabilities each pass through a place.

diffusers computes softmax(q k^T / sqrt(d)) v in one fused call that nothing can look into. In an opened
attention the four are inputs of modules of their own that do nothing: hooks see them there, and quantizers
go where those modules were.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TAPS = ("q", "k", "v", "probabilities")
AT_ONCE = 2**24  # probabilities: 64 MB


class OpenAttention(nn.Module):
    """diffusers' processor for plain attention without a mask; its children are the places."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.probabilities = (nn.Identity() for _ in TAPS)

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        if attention_mask is not None:
            raise NotImplementedError("opened attention takes no mask")
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = self.q(attn.to_q(hidden_states)), self.k(attn.to_k(source)), self.v(attn.to_v(source))
        attended: Tensor = attn.to_out[0](attend(q, k, v, attn.heads, self.probabilities))
        return attended


def attend(
    q: Tensor, k: Tensor, v: Tensor, heads: int, place: Callable[[Tensor], Tensor], at_once: int = AT_ONCE
) -> Tensor:
    """place(softmax(q k^T / sqrt(d))) v (N,L,C) of q (N,L,C), k and v (N,S,C); d is C / heads.

    `place` takes and gives probabilities (N,heads,L,S) fp32. Where there are more than `at_once` it is called
    for parts of the L queries, each evenly from all of them, and the backward pass computes a part again.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    length = q.shape[2]
    parts = min(length, -(-q[..., 0].numel() * k.shape[2] // at_once))
    if parts == 1:
        attended = _attend(q, k, v, place)
    else:
        again = partial(checkpoint, _attend, use_reentrant=False, preserve_rng_state=False)
        run = again if torch.is_grad_enabled() else _attend  # the first checkpoint imports for seconds
        attended = torch.empty_like(q)
        for i in range(parts):
            attended[:, :, i::parts] = run(q[:, :, i::parts], k, v, place)
    return attended.transpose(1, 2).flatten(2)


def _attend(q: Tensor, k: Tensor, v: Tensor, place: Callable[[Tensor], Tensor]) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return place(scores.softmax(-1, dtype=torch.float32)).to(v.dtype) @ v


def is_plain(attn: Any) -> bool:
    """Whether an attention is projections, products and nothing beside: that of Stable Diffusion's UNets."""
    extras = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k, attn.norm_cross)
    return (
        not any(extras)
        and not attn.residual_connection
        and attn.rescale_output_factor == 1
        and attn.inner_dim == attn.inner_kv_dim
    )


def _attentions(network: nn.Module) -> dict[str, Any]:
    """Those that are or can be opened, by module path."""
    return {
        name: module
        for name, module in network.named_modules()
        # by name: importing diffusers takes seconds
        if type(getattr(module, "processor", None)).__name__ in ("AttnProcessor2_0", "OpenAttention")
        and is_plain(module)
    }


def attention_taps(network: nn.Module) -> list[str]:
    """Module paths of the places of a network whose attention is or will be opened, in module order."""
    return [f"{name}.processor.{place}" for name in _attentions(network) for place in TAPS]


def open_attention(network: nn.Module) -> None:
    """Put an open processor where diffusers' default one is, in place."""
    for module in _attentions(network).values():
        module.set_processor(OpenAttention())
