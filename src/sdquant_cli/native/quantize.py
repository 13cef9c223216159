"""The kernel from activations to codes, called with addresses; `available()` says whether it can be."""

import ctypes
from functools import cache

from .build import load

_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


@cache
def _library() -> ctypes.CDLL | None:
    library = load("quantize")
    if library is not None:
        library.quantize.argtypes = [_POINTER, _INT, _POINTER, _POINTER, *[_INT] * 6, *[_FLOAT] * 3]
        library.quantize.restype = None
    return library


def available() -> bool:
    """Whether the kernel was compiled and loaded; the first call compiles it (under a second)."""
    return _library() is not None


def quantize(
    x: tuple[int, bool],
    low: int,
    high: int | None,
    shape: tuple[int, int, int, int],
    padding: tuple[int, int],
    step: float,
    zero: float,
    top: float,
) -> None:
    """Codes of x, an address and whether it is bfloat16, of shape (n,h,w,c), with a border of zero-points.

    Their low bytes go to `low`, the rest to `high` if given.
    """
    library = _library()
    assert library is not None
    library.quantize(*x, low, high, *shape, *padding, step, zero, top)
