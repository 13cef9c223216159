"""The smallest kernel: it shows whether Triton, its compiler and the driver work together."""

import triton
import triton.language as tl


@triton.jit
def _copy(source, target):
    tl.store(target, tl.load(source))


def copy(source: object, target: object) -> None:
    """Copy the first number of a tensor to another."""
    _copy[(1,)](source, target, enable_fp_fusion=False)
