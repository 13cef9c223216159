"""The kernels from rows of activations to codes, called with addresses; norms and activations before them."""

import ctypes
from functools import cache

from .build import load
from .structures import ADDRESS, FLOAT, INT, fields

LINE = 8  # bytes that a row of codes takes a multiple of


class Rows(ctypes.Structure):
    """Rows of activations, what is done to them, and where their codes go; fields as in codes.c."""

    _fields_ = [
        *fields(ADDRESS, "x multiplier shift smoothing low high scale zero"),
        *fields(INT, "bfloat16 items rows channels line each gated silu"),
        *fields(FLOAT, "top epsilon"),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    library = load("codes")
    if library is not None:
        library.codes.argtypes = [ctypes.POINTER(Rows), FLOAT, FLOAT]
        library.group_norm.argtypes = [ADDRESS, *[INT] * 5, ctypes.c_double, *[ADDRESS] * 4]
    return library


def available() -> bool:
    """Return whether the kernels were compiled and loaded; the first call compiles them (under a second)."""
    return _library() is not None


def codes(rows: Rows, scale: float | None = None, zero: float = 0.0) -> None:
    """Write the codes of all rows, and each row's scale and zero-point: those given, else found.

    Raises MemoryError if there is no room for a row.
    """
    library = _library()
    assert library is not None
    if library.codes(rows, scale or 0.0, zero):
        raise MemoryError("codes: no room for a row")


def group_norm(
    x: int, bfloat16: bool, shape: tuple[int, ...], epsilon: float, addresses: tuple[int, ...]
) -> None:
    """Write the multipliers and shifts that a group norm multiplies and shifts x with.

    `shape` is items, rows, channels, groups; `addresses` those of the norm's weight and bias (channels), and
    of multipliers and shifts (items, channels), fp32. Raises MemoryError if there is no room for sums.
    """
    library = _library()
    assert library is not None
    if library.group_norm(x, bfloat16, *shape, epsilon, *addresses):
        raise MemoryError("group_norm: no room for sums")
