"""Linear layers and convolutions of codes, called with addresses."""

import ctypes
from functools import cache

from .build import load
from .structures import ADDRESS, INT, fields

WIDE = 64  # outputs of a panel
MOST_TAPS = 64  # of a convolution's kernel


class Layer(ctypes.Structure):
    """A layer's weight, laid out, and how it moves over its input; fields as in products.c."""

    _fields_ = [
        *fields(ADDRESS, "panels sums scales bias"),
        *fields(INT, "inputs outputs groups bits"),
        *fields(INT * 2, "kernel stride padding dilation"),
    ]


class Input(ctypes.Structure):
    """Codes with their scales and zero-points."""

    _fields_ = [
        *fields(ADDRESS, "low high scale zero"),
        *fields(INT, "line"),
        ("shape", INT * 3),
    ]


class Output(ctypes.Structure):
    """Where outputs go, and what is added to them."""

    _fields_ = [
        *fields(ADDRESS, "to residual addend"),
        ("bfloat16", INT),
        ("size", INT * 2),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    library = load("products")
    if library is not None:
        library.product.argtypes = [ctypes.POINTER(part) for part in (Layer, Input, Output)]
        library.lay_out.argtypes = [ctypes.POINTER(Layer), *[ADDRESS] * 3]
        library.segment_channels.argtypes = library.instructions.argtypes = []
        library.instructions.restype = ctypes.c_char_p
        library.segment_channels.restype = INT
        for function in (library.product, library.lay_out):
            function.restype = None
    return library


def available() -> bool:
    """Return whether the kernels were compiled and loaded; the first call compiles them (some seconds)."""
    return _library() is not None


def segment_channels() -> int:
    """Return the largest number of input channels that one sum of integers covers."""
    library = _library()
    assert library is not None
    return int(library.segment_channels())


def instructions() -> str:
    """Return the name of the instructions that multiply codes."""
    library = _library()
    assert library is not None
    return str(library.instructions().decode())


def lay_out(layer: Layer, codes: int, panels: int, sums: int) -> None:
    """Write a weight's codes to `panels`, and their sums to `sums`, both zeros before."""
    library = _library()
    assert library is not None
    library.lay_out(layer, codes, panels, sums)


def product(layer: Layer, codes: Input, output: Output) -> None:
    """Compute a layer."""
    library = _library()
    assert library is not None
    library.product(layer, codes, output)
