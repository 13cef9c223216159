"""Fields of C structures."""

import ctypes

from sdquant_cli.native.structures import FLOAT, INT, fields


def test_fields_have_their_names_in_order():
    class Point(ctypes.Structure):
        _fields_ = [*fields(FLOAT, "x y"), *fields(INT * 2, "place")]

    point = Point(1.5, 2.5, (3, 4))
    assert (point.x, point.y, list(point.place)) == (1.5, 2.5, [3, 4])
