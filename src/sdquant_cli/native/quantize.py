"""The kernel from activations to codes, called with addresses; `available` tells whether it is there."""

import ctypes
from functools import cache
from typing import NamedTuple

from .build import load

_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Activations(NamedTuple):
    """Activations in memory as (n, h, w, c), fp32 or bfloat16."""

    address: int
    bfloat16: bool
    shape: tuple[int, int, int, int]


@cache
def _library() -> ctypes.CDLL | None:
    library = load("quantize")
    if library is not None:
        library.quantize.argtypes = [_POINTER, _INT, _POINTER, _POINTER, *[_INT] * 6, *[_FLOAT] * 3]
        library.quantize.restype = None
    return library


def available() -> bool:
    """Return whether the kernel was compiled and loaded; the first call compiles it (under a second)."""
    return _library() is not None


def quantize(
    x: Activations,
    codes: tuple[int, int | None],
    padding: tuple[int, int],
    scale: float,
    zero_point: float,
    top: float,
) -> None:
    """Write the codes of x, 0 to `top`, with a border of zero-points of height and width `padding`.

    `codes` are addresses: the low bytes go to the first; the high bytes to the second, unless it is None.
    """
    library = _library()
    assert library is not None
    library.quantize(x.address, x.bfloat16, *codes, *x.shape, *padding, scale, zero_point, top)
