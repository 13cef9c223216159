"""The bfloat16 attention kernel, called with addresses; `available` tells whether this machine has it."""

import ctypes
from functools import cache

from .build import load

MOST_CHANNELS = 256  # of a head
_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


@cache
def _library() -> ctypes.CDLL | None:
    library = load("attention")
    if library is None or not library.attention_supported():
        return None
    library.attention.argtypes = [*[_POINTER] * 4, *[_INT] * 5, _FLOAT]
    library.attention.restype = ctypes.c_int
    return library


def available() -> bool:
    """Return whether the kernel was compiled and this CPU multiplies bfloat16; the first call compiles it."""
    return _library() is not None


def attention(
    addresses: tuple[int, int, int, int], shape: tuple[int, int, int, int, int], scale: float
) -> None:
    """Write the output of attention; `addresses` are those of q, k, v and the output, in this order.

    `shape` is batch, queries, keys, heads, channels of a head (n, l, s, heads, channels).
    Raises MemoryError if there is no memory for the kernel's layout of keys and values.
    """
    library = _library()
    assert library is not None
    if library.attention(*addresses, *shape, scale):
        raise MemoryError("attention: no room for keys and values")
