"""The attention kernels, called with addresses; `available` tells whether this machine has one."""

import ctypes
from functools import cache

from .build import load

MOST_CHANNELS = 256  # of a head
_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


@cache
def library(dtype: str) -> ctypes.CDLL | None:
    """Return the kernel of a dtype, bf16 or fp32, compiled by the first call; None if it is not."""
    kernel = load(f"attention_{dtype}")
    if kernel is not None:
        kernel.attention.argtypes = [*[_POINTER] * 4, *[_INT] * 5, _FLOAT]
        kernel.attention.restype = ctypes.c_int
    return kernel


def available(dtype: str) -> bool:
    """Return whether the kernel of a dtype was compiled and is the best one for this CPU.

    That is bf16 where the CPU multiplies it, and fp32 with AVX2 alone.
    """
    kernel = library(dtype)
    return kernel is not None and bool(kernel.attention_supported())


def attention(
    dtype: str, addresses: tuple[int, int, int, int], shape: tuple[int, int, int, int, int], scale: float
) -> None:
    """Write the output of attention; `addresses` are those of q, k, v and the output, in this order.

    `shape` is batch, queries, keys, heads, channels of a head (n, l, s, heads, channels).
    Raises MemoryError if there is no memory for the kernel's layout of keys and values.
    """
    kernel = library(dtype)
    assert kernel is not None
    if kernel.attention(*addresses, *shape, scale):
        raise MemoryError("attention: no room for keys and values")
