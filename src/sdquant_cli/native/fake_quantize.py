"""The fused rounding kernel, called with addresses; `available()` says whether it can be."""

import ctypes
from functools import cache
from typing import Any

from .build import load

_POINTER, _INT, _FLOAT, _WORD = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_uint32
_SHAPE: list[Any] = [_INT, _INT, _POINTER, _POINTER, _INT, _INT, _FLOAT, _FLOAT, _WORD, _WORD]


@cache
def _library() -> ctypes.CDLL | None:
    library = load("fake_quantize")
    if library is not None:
        library.fake_quantize.argtypes = [_POINTER, _POINTER, *_SHAPE]
        library.fake_quantize_backward.argtypes = [*[_POINTER] * 4, *_SHAPE]
        library.squared_errors.argtypes = [_POINTER, _POINTER, _INT, _INT, _POINTER, _FLOAT, _FLOAT]
        for function in (library.fake_quantize, library.fake_quantize_backward, library.squared_errors):
            function.restype = None
    return library


def available() -> bool:
    """Whether the kernel was compiled and loaded; the first call compiles it (under a second)."""
    return _library() is not None


def forward(x: int, y: int, *shape: float) -> None:
    """y from x; `shape` is rows, inner, step, zero, their strides, low, high, seed and bound of a draw."""
    library = _library()
    assert library is not None
    library.fake_quantize(x, y, *shape)


def backward(x: int, up: int, to_x: int, to_step: int | None, *shape: float) -> None:
    """Gradients to x and, if an address is given, to each row's step size; `shape` as in `forward`."""
    library = _library()
    assert library is not None
    library.fake_quantize_backward(x, up, to_x, to_step, *shape)


def squared_errors(x: int, error: int, rows: int, inner: int, step: int, low: float, high: float) -> None:
    """Squared error (rows, float64) of rounding x (rows, inner) to a symmetric grid of steps (rows)."""
    library = _library()
    assert library is not None
    library.squared_errors(x, error, rows, inner, step, low, high)
