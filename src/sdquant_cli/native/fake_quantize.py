"""The fused rounding kernel, called with addresses; `available` tells whether this machine has it."""

import ctypes
from functools import cache
from typing import NamedTuple

from .build import load

_POINTER, _INT, _FLOAT, _WORD = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_uint32


class Arguments(NamedTuple):
    """The arguments of both passes of the kernel, in C's order; scale and zero-point are addresses."""

    rows: int
    inner: int  # values of a row
    scale: int
    zero_point: int
    scale_stride: int  # 1: a row has its own scale; 0: all rows share one
    zero_point_stride: int
    low: float  # smallest code
    high: float
    seed: int  # of the draw that keeps values unrounded
    bound: int  # of that draw; 0: every value is rounded


_SHARED = (_INT, _INT, _POINTER, _POINTER, _INT, _INT, _FLOAT, _FLOAT, _WORD, _WORD)


@cache
def _library() -> ctypes.CDLL | None:
    library = load("fake_quantize")
    if library is not None:
        library.fake_quantize.argtypes = [_POINTER, _POINTER, *_SHARED]
        library.fake_quantize_backward.argtypes = [*[_POINTER] * 4, *_SHARED]
        best = library.best_steps
        best.argtypes = [_POINTER, _POINTER, _INT, _INT, _POINTER, _POINTER, _INT, _FLOAT, _FLOAT]
        tokens = library.fake_quantize_tokens
        tokens.argtypes = [_POINTER, _POINTER, _INT, _INT, _INT, _FLOAT, _WORD, _WORD]
        rounding = (library.fake_quantize, library.fake_quantize_backward, tokens)
        for function in (*rounding, best):
            function.restype = None
    return library


def available() -> bool:
    """Return whether the kernel was compiled and loaded; the first call compiles it (under a second)."""
    return _library() is not None


def forward(x: int, y: int, arguments: Arguments) -> None:
    """Write x rounded to y."""
    library = _library()
    assert library is not None
    library.fake_quantize(x, y, *arguments)


def backward(inputs: tuple[int, int], outputs: tuple[int, int | None], arguments: Arguments) -> None:
    """Write gradients from inputs (x, dL/dy) to outputs: dL/dx and, unless None, dL/ds of each row."""
    library = _library()
    assert library is not None
    library.fake_quantize_backward(*inputs, *outputs, *arguments)


def best_steps(
    x: int, best: int, shape: tuple[int, int], largest: int, factors: tuple[int, int], limits: tuple[int, int]
) -> None:
    """Write to `best` (rows) the step sizes, of largest (rows) x factors, that round x (rows, inner) best.

    `shape` is (rows, inner), `factors` an address and a count, `limits` the smallest and largest code of a
    symmetric grid.
    """
    library = _library()
    assert library is not None
    library.best_steps(x, best, *shape, largest, *factors, *limits)


def forward_tokens(x: int, y: int, shape: tuple[int, int, int], top: int, draw: tuple[int, int]) -> None:
    """Write x (outer, channels, inner) to y, rounded to codes 0 ... top with a scale for each position.

    A position is an index into outer and inner; `draw` is the seed and the bound of a draw, (0, 0) for none.
    """
    library = _library()
    assert library is not None
    library.fake_quantize_tokens(x, y, *shape, top, *draw)
