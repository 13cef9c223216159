"""The kernels of a device: in C on a CPU, in Triton on CUDA."""

from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from ..native import cuda
from . import products, row_codes
from .layers import AnyQuantizer, Packed, PackedConv2d
from .row_codes import PLAIN, Codes, Prologue


class Integer:
    """A layer's computation on codes, summed in int32 where rows and outputs share their scales."""

    def __init__(self, layer: Packed) -> None:
        self.product = product(layer)
        self._layer, self._is_convolution = layer, isinstance(layer, PackedConv2d)

    def __call__(self, x: Tensor, quantizer: AnyQuantizer) -> Tensor:
        """Return the output for an input of the layer, in its dtype."""
        dtype = x.dtype if x.dtype in dtypes(x.device) else torch.float32
        rows = x.permute(0, 2, 3, 1) if self._is_convolution else x.reshape(-1, 1, 1, x.shape[-1])
        codes = codes_of(rows.to(dtype).contiguous(), quantizer, self._layer.smoothing)
        y = self.product(codes, dtype).to(x.dtype)
        return y.permute(0, 3, 1, 2) if self._is_convolution else y.view(*x.shape[:-1], self.product.outputs)


class Product(Protocol):
    """A layer on codes: its weight as kernels read it."""

    inputs: int
    outputs: int

    def __call__(
        self, codes: Codes, dtype: torch.dtype, residual: Tensor | None = None, addend: Tensor | None = None
    ) -> Tensor:
        """Return the output (n,h',w',C_out), with a residual like it and `addend` (n,C_out) added."""
        ...


def product(layer: Packed) -> Product:
    """Return a layer on codes, laid out for its device."""
    made: Product = _products(layer.weight.device).Product(layer)
    return made


def computes(layer: Packed) -> bool:
    """Return whether the kernels of a layer's device compute it."""
    return bool(_products(layer.weight.device).computes(layer))


def dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    """Return the dtypes of inputs and outputs."""
    known: tuple[torch.dtype, ...] = _row_codes(device).DTYPES
    return known


def group_norm(norm: nn.GroupNorm, x: Tensor, *, silu: bool) -> Prologue:
    """Return a group norm of x (n,h,w,C), and SiLU after it, for `codes_of`."""
    prologue: Prologue = _row_codes(x.device).group_norm(norm, x, silu=silu)
    return prologue


def layer_norm(norm: nn.LayerNorm) -> Prologue:
    """Return a layer norm over the channels for `codes_of`."""
    prologue: Prologue = _row_codes(norm.weight.device).layer_norm(norm)
    return prologue


def codes_of(
    x: Tensor, quantizer: AnyQuantizer, smoothing: Tensor | None, prologue: Prologue = PLAIN
) -> Codes:
    """Return the codes of an input (n,h,w,C), contiguous, of `dtypes`, smoothed before it is rounded.

    Raises RuntimeError where the norm or the smoothing has other channels.
    """
    codes: Codes = _row_codes(x.device).codes_of(x, quantizer, smoothing, prologue)
    return codes


def _products(device: torch.device) -> ModuleType:
    if not cuda.serves(device.type):
        return products
    from .cuda import products as on_cuda  # imports Triton

    return on_cuda


def _row_codes(device: torch.device) -> ModuleType:
    if not cuda.serves(device.type):
        return row_codes
    from .cuda import row_codes as on_cuda  # imports Triton

    return on_cuda
