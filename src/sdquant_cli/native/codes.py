"""The kernel from rows of activations to codes, called with addresses."""

import ctypes
from functools import cache

from .build import load

_ADDRESS, _INT = ctypes.c_void_p, ctypes.c_int64
LINE = 8  # bytes that a row of codes takes a multiple of


class Rows(ctypes.Structure):
    """Rows of activations, and where their codes, scales and zero-points go; fields as in codes.c."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("x", "smoothing", "low", "high", "scale", "zero")),
        *((name, _INT) for name in ("bfloat16", "channels", "line")),
        ("top", ctypes.c_float),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    library = load("codes")
    if library is not None:
        library.codes.argtypes = [ctypes.POINTER(Rows), _INT, _INT]
        library.codes.restype = None
    return library


def available() -> bool:
    """Return whether the kernel was compiled and loaded; the first call compiles it (under a second)."""
    return _library() is not None


def codes(rows: Rows, count: int, *, find: bool) -> None:
    """Write the codes of `count` rows; with `find` their scales and zero-points too, which are else given."""
    library = _library()
    assert library is not None
    library.codes(rows, count, find)
