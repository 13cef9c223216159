"""Attention with its matrix products in the open: q, k, v and the probabilities each pass through a tap.

diffusers computes softmax(q k^T / sqrt(d)) v in one fused call that nothing can look into. In an opened
attention the four are inputs of modules that do nothing: hooks see them there, and quantizers replace those
modules.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

TAPS = ("q", "k", "v", "probabilities")
AT_ONCE = 2**24  # probabilities: 64 MB


class Tap(nn.Identity):
    """A place where a matrix product's operand passes, for a quantizer to replace.

    Values along `channels_axis` share a scale where scales are found at run time. It is the axis that the
    product sums over: scales of the other axes are factors of its result.
    """

    def __init__(self, channels_axis: int) -> None:
        super().__init__()
        self.channels_axis = channels_axis


class OpenAttention(nn.Module):
    """diffusers' processor for plain attention without a mask; its children are the taps."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.probabilities = Tap(-1), Tap(-1), Tap(1), Tap(-1)

    def forward(
        self,
        attn: "Attention",
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *_: object,
        **__: object,
    ) -> Tensor:
        """Return the attention's output, as a processor of diffusers; a mask is not implemented."""
        if attention_mask is not None:
            raise NotImplementedError("opened attention takes no mask")
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = self.q(attn.to_q(hidden_states)), self.k(attn.to_k(source)), self.v(attn.to_v(source))
        attended: Tensor = attn.to_out[0](attend(q, k, v, attn.heads, self.probabilities))
        return attended


def attend(
    q: Tensor, k: Tensor, v: Tensor, heads: int, tap: Callable[[Tensor], Tensor], at_once: int = AT_ONCE
) -> Tensor:
    """Return tap(softmax(q k^T / sqrt(d))) v (N,L,C) of q (N,L,C), k and v (N,S,C); d is C / heads.

    `tap` takes and returns probabilities (N,heads,L,S) fp32. Where there are more than `at_once` of them, it
    is called on parts of the L queries, each spread evenly over all of them, and the backward pass computes
    a part again.
    """
    q, k, v = _by_head(q, heads), _by_head(k, heads), _by_head(v, heads)
    length = q.shape[2]
    parts = min(length, -(-q[..., 0].numel() * k.shape[2] // at_once))
    if parts == 1:
        attended = _attend(q, k, v, tap)
    else:
        again = partial(checkpoint, _attend, use_reentrant=False, preserve_rng_state=False)
        run = again if torch.is_grad_enabled() else _attend  # the first checkpoint imports for seconds
        attended = torch.empty_like(q)
        for i in range(parts):
            attended[:, :, i::parts] = run(q[:, :, i::parts], k, v, tap)
    return attended.transpose(1, 2).flatten(2)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """Return (N,heads,L,d) of (N,L,C)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, tap: Callable[[Tensor], Tensor]) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return tap(scores.softmax(-1, dtype=torch.float32)).to(v.dtype) @ v


def is_plain(attn: "Attention") -> bool:
    """Return whether an attention has no more than projections and products, as in SD's UNets."""
    extras = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k, attn.norm_cross)
    return (
        not any(extras)
        and not attn.residual_connection
        and attn.rescale_output_factor == 1
        and attn.inner_dim == attn.inner_kv_dim
    )


def _attentions(network: nn.Module) -> "dict[str, Attention]":
    """Return the attentions that are or can be opened, by module path."""
    attentions: dict[str, Attention] = {}
    for name, module in network.named_modules():
        processor = type(getattr(module, "processor", None)).__name__  # importing diffusers takes seconds
        if processor in ("AttnProcessor2_0", "OpenAttention") and is_plain(module):
            attentions[name] = module
    return attentions


def attention_taps(network: nn.Module) -> list[str]:
    """Return the module paths of all taps, in module order, whether the attention is opened yet or not."""
    return [f"{name}.processor.{tap}" for name in _attentions(network) for tap in TAPS]


def open_attention(network: nn.Module) -> None:
    """Replace diffusers' default attention processors by open ones, in place."""
    for module in _attentions(network).values():
        module.set_processor(OpenAttention())
