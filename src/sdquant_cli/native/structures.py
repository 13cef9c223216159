"""The types that C structures and functions of kernels are declared with."""

import ctypes
from typing import Any

ADDRESS, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


def fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Return the fields of a C structure that have the same type, from their names."""
    return [(name, kind) for name in names.split()]
