"""Integer codes in bytes: weights as they are stored, activations as they are multiplied."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..native import quantize as native

NIBBLE = 4  # bits; codes of this many or fewer are stored two in a byte


def packed_shape(shape: torch.Size, bits: int) -> torch.Size:
    """Return the shape of a weight's packed codes, with as many axes as the weight: adapters count them."""
    if bits > NIBBLE:
        return shape
    return torch.Size([shape[0], -(-shape[1:].numel() // 2), *[1] * (len(shape) - 2)])


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack int8 codes (C_out,...): two of 4 bits in a uint8, the first in the low half, or unchanged."""
    if bits > NIBBLE:
        return codes.contiguous()
    flat = codes.flatten(1)
    even = F.pad(flat, (0, flat.shape[1] % 2)).view(torch.uint8) & 15
    return (even[:, ::2] | (even[:, 1::2] << 4)).view(packed_shape(codes.shape, bits))


def unpack(packed: Tensor, bits: int, shape: torch.Size) -> Tensor:
    """Return the int8 codes that `pack` packed, in the weight's shape."""
    if bits > NIBBLE:
        return packed
    packed = packed.flatten(1)
    halves = torch.stack([packed & 15, packed >> 4], dim=2).flatten(1)[:, : shape[1:].numel()]
    signed = (halves ^ 8).view(torch.int8) - 8  # two's complement of four bits
    return signed.reshape(shape)


def code_range(packed: Tensor, bits: int) -> tuple[int, int]:
    """Return the smallest and the largest code, without unpacking them."""
    if bits > NIBBLE:
        low, high = packed.aminmax()
        return int(low), int(high)
    halves = [((packed & 15) ^ 8).aminmax(), ((packed >> 4) ^ 8).aminmax()]  # shifted by 8
    return min(int(low) for low, _ in halves) - 8, max(int(high) for _, high in halves) - 8


def quantize(x: Tensor, step: float, zero: int, bits: int, padding: tuple[int, int] = (0, 0)) -> list[Tensor]:
    """Return uint8 codes of activations (eq. 4): [codes], or [low bytes, high bytes] above 8 bits.

    x is (...,C), or (N,C,h,w), which gives (N,C,h + 2p,w + 2q) in channels-last memory; the border of
    `padding` (p,q) has the code of 0. A code above 8 bits is low + 256 high.
    """
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and native.available():
        return _by_kernel(x, step, zero, bits, padding)
    codes = (torch.round(x.float() / torch.full([1] * x.dim(), step, device=x.device)) + zero).clamp_(
        0, 2**bits - 1
    )
    if x.dim() == 4 and any(padding):
        codes = F.pad(codes, (padding[1], padding[1], padding[0], padding[0]), value=float(zero))
    if x.dim() == 4:
        codes = codes.contiguous(memory_format=torch.channels_last)
    if bits <= 8:
        return [codes.to(torch.uint8)]
    whole = codes.to(torch.int32)
    return [(whole & 255).to(torch.uint8), (whole >> 8).to(torch.uint8)]


def _by_kernel(x: Tensor, step: float, zero: int, bits: int, padding: tuple[int, int]) -> list[Tensor]:
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        p, q = padding
        planes = [
            torch.empty(n, h + 2 * p, w + 2 * q, c, dtype=torch.uint8).permute(0, 3, 1, 2)
            for _ in range(1 + (bits > 8))
        ]
    else:
        x = x.contiguous()
        n, h, w, c = 1, x.numel() // x.shape[-1], 1, x.shape[-1]
        planes = [torch.empty(x.shape, dtype=torch.uint8) for _ in range(1 + (bits > 8))]
    addresses = [plane.data_ptr() for plane in planes]
    activations = native.Activations(x.data_ptr(), x.dtype is torch.bfloat16, (n, h, w, c))
    codes = (addresses[0], addresses[1] if bits > 8 else None)
    native.quantize(activations, codes, padding, step, float(zero), float(2**bits - 1))
    return planes
