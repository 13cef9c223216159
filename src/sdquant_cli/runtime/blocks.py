"""Blocks of a UNet whose norms, activations and additions are done by the kernels around integer products.

A block computes what diffusers' does, up to the order of floating-point additions, with two passes less over
memory around each layer; its activations keep their channels last. It does so where our kernels compute its
layers, and nothing else looks at what passes between them: with adapters, hooks, low-rank branches or other
settings than those of Stable Diffusion's UNets, diffusers' own code runs.

The classes have the names of those they replace, by which accelerate and diffusers find blocks.
"""

from typing import Any

import torch
from diffusers.models import attention as of_diffusers
from diffusers.models import resnet
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers import transformer_2d
from torch import Tensor, nn

from ..models.attention import is_plain
from .attention import PackedAttention, attended
from .kernels import Integer, Product, codes_of, dtypes, group_norm, layer_norm
from .layers import Packed, PackedConv2d, PackedLinear
from .row_codes import GATED, PLAIN, Codes, Prologue


class ResnetBlock2D(resnet.ResnetBlock2D):
    """A ResNet block: group norm, SiLU and convolution, twice, and a shortcut."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *args: object, **kwargs: object) -> Tensor:
        """Return the block's output (N,C_out,h,w)."""
        inner = (self.norm1, self.nonlinearity, self.norm2, self.dropout)
        if not (self._is_plain() and _are_on_codes(input_tensor, (self.conv1, self.conv2), inner)):
            result: Tensor = super().forward(input_tensor, temb, *args, **kwargs)
            return result
        x = _rows(input_tensor)
        hidden = _layer(
            self.conv1, x, group_norm(self.norm1, x, silu=True), addend=self._of_time(temb, len(x))
        )
        residual = x if self.conv_shortcut is None else _rows(self.conv_shortcut(input_tensor))
        y = _layer(self.conv2, hidden, group_norm(self.norm2, hidden, silu=True), residual)
        return y.permute(0, 3, 1, 2)

    def _is_plain(self) -> bool:
        return (
            self.time_embedding_norm == "default"
            and self.upsample is None
            and self.downsample is None
            and self.output_scale_factor == 1
            and isinstance(self.nonlinearity, nn.SiLU)
            and not self.training
        )

    def _of_time(self, temb: Tensor | None, items: int) -> Tensor | None:
        """Return what the timestep adds (N,C) to the first convolution's output."""
        if temb is None or self.time_emb_proj is None:
            return None
        added = self.time_emb_proj(temb if self.skip_time_act else self.nonlinearity(temb))
        return added.float().expand(items, -1).contiguous()


class BasicTransformerBlock(of_diffusers.BasicTransformerBlock):
    """A transformer block: self-attention, cross-attention and feed-forward, each after a layer norm."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        *more: Any,
        **others: Any,
    ) -> Tensor:
        """Return the block's output (N,L,C)."""
        options = (attention_mask, encoder_attention_mask, *more, *others.values())
        if any(option is not None for option in options) or not self._is_plain(hidden_states):
            inputs = (hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask)
            result: Tensor = super().forward(*inputs, *more, **others)
            return result
        x = hidden_states.contiguous().unsqueeze(2)
        first, second = self.attn1, self.attn2
        codes = _SharedCodes(x, layer_norm(self.norm1))
        query, key, value = (codes.product(layer) for layer in (first.to_q, first.to_k, first.to_v))
        x = _layer(first.to_out[0], attended(first, query, key, value).unsqueeze(2), residual=x)
        query = _layer(second.to_q, x, layer_norm(self.norm2)).squeeze(2)
        key, value = second.to_k(encoder_hidden_states), second.to_v(encoder_hidden_states)
        x = _layer(second.to_out[0], attended(second, query, key, value).unsqueeze(2), residual=x)
        hidden = _layer(self.ff.net[0].proj, x, layer_norm(self.norm3))
        return _layer(self.ff.net[2], hidden, GATED, residual=x).squeeze(2)

    def _is_plain(self, x: Tensor) -> bool:
        """Return whether the block is as those of SD's UNets, and its layers are on codes."""
        first, second, (gate, *_, out) = self.attn1, self.attn2, self.ff.net
        if not (self.norm_type == "layer_norm" and type(gate) is GEGLU and second is not None):
            return False
        if self.pos_embed is not None or self._chunk_size is not None or self.only_cross_attention:
            return False
        if self.training or not (_is_plain_attention(first) and _is_plain_attention(second)):
            return False
        queries = (first.to_q, first.to_k, first.to_v, second.to_q)
        layers = (*queries, first.to_out[0], second.to_out[0], gate.proj, out)
        inner = (self.norm1, self.norm2, self.norm3, first, second, self.ff, gate)
        return _are_on_codes(x, layers, inner)


class Transformer2DModel(transformer_2d.Transformer2DModel):
    """Transformer blocks between two projections: of pixels to tokens, and back."""

    def _operate_on_continuous_inputs(self, hidden_states: Tensor) -> tuple[Tensor, int]:
        if not _are_on_codes(hidden_states, (self.proj_in,), (self.norm,)):
            result: tuple[Tensor, int] = super()._operate_on_continuous_inputs(hidden_states)
            return result
        x = _rows(hidden_states)
        tokens = _layer(self.proj_in, x, group_norm(self.norm, x, silu=False)).flatten(1, 2)
        return tokens, tokens.shape[-1]

    def _get_output_for_continuous_inputs(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        batch_size: int,
        height: int,
        width: int,
        inner_dim: int,
    ) -> Tensor:
        if not _are_on_codes(hidden_states, (self.proj_out,), ()):
            result: Tensor = super()._get_output_for_continuous_inputs(
                hidden_states, residual, batch_size, height, width, inner_dim
            )
            return result
        x = hidden_states.contiguous().view(batch_size, height, width, inner_dim)
        return _layer(self.proj_out, x, residual=_rows(residual)).permute(0, 3, 1, 2)


class _SharedCodes:
    """An input after its norm, rounded once for all layers that smooth and round it alike."""

    def __init__(self, x: Tensor, prologue: Prologue) -> None:
        self._x, self._prologue = x, prologue
        self._rounded: list[tuple[Packed, Codes]] = []

    def product(self, layer: Packed) -> Tensor:
        """Return a layer's output (N,L,C_out)."""
        codes = next((codes for other, codes in self._rounded if _round_alike(layer, other)), None)
        if codes is None:
            codes = _codes(layer, self._x, self._prologue)
            self._rounded.append((layer, codes))
        return _product(layer)(codes, self._x.dtype).squeeze(2)


def _round_alike(a: Packed, b: Packed) -> bool:
    if a.rounding is not None:  # on CUDA, where a comparison of tensors would wait for the device
        return a.rounding == b.rounding
    if a.quantizer() != b.quantizer():
        return False
    if a.smoothing is None or b.smoothing is None:
        return a.smoothing is b.smoothing
    return torch.equal(a.smoothing, b.smoothing)


def _layer(
    layer: Any,
    x: Tensor,
    prologue: Prologue = PLAIN,
    residual: Tensor | None = None,
    addend: Tensor | None = None,
) -> Tensor:
    """Return a layer's output (n,h',w',C_out) for x (n,h,w,C), which the prologue is applied to."""
    return _product(layer)(_codes(layer, x, prologue), x.dtype, residual, addend)


def _codes(layer: Packed, x: Tensor, prologue: Prologue) -> Codes:
    quantizer = layer.quantizer()
    assert quantizer is not None
    return codes_of(x, quantizer, layer.smoothing, prologue)


def _product(layer: Packed) -> Product:
    run = layer.prepared()
    assert isinstance(run, Integer)
    return run.product


def _rows(x: Tensor) -> Tensor:
    """Return (N,h,w,C) of (N,C,h,w)."""
    return x.permute(0, 2, 3, 1).contiguous()


def _is_plain_attention(attn: Attention) -> bool:
    return type(attn.processor) is PackedAttention and is_plain(attn)


def _are_on_codes(x: Tensor, layers: tuple[nn.Module, ...], inner: tuple[nn.Module, ...]) -> bool:
    """Return whether our kernels compute all layers, and no hook is on them or on modules between them."""
    if x.dtype not in dtypes(x.device) or (torch.is_grad_enabled() and x.requires_grad):
        return False
    return all(map(_is_on_codes, layers)) and not any(map(_has_hooks, (*layers, *inner)))


def _is_on_codes(layer: nn.Module) -> bool:
    if type(layer) not in (PackedLinear, PackedConv2d) or not layer.installed:  # an adapter wraps it
        return False
    assert isinstance(layer, Packed)
    has_branch = layer.form.rank(layer.weight_shape) > 0
    return not has_branch and isinstance(layer.prepared(), Integer) and layer.quantizer() is not None


def _has_hooks(module: nn.Module) -> bool:
    """Return whether something is called with a module, or in its place, as accelerate's hooks are."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


_REPLACED: dict[type, type[nn.Module]] = {
    resnet.ResnetBlock2D: ResnetBlock2D,
    of_diffusers.BasicTransformerBlock: BasicTransformerBlock,
    transformer_2d.Transformer2DModel: Transformer2DModel,
}


def use_packed_blocks(network: nn.Module) -> None:
    """Let the blocks of a packed network compute with the kernels, in place."""
    for module in network.modules():
        if replacement := _REPLACED.get(type(module)):
            module.__class__ = replacement
