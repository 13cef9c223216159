"""Triton kernels for CUDA: what native/products.c and native/codes.c compute on a CPU, with int8 codes.

Importing a module of this folder imports Triton, and nothing else does. Kernels take tensors and know nothing
of torch. With TRITON_INTERPRET=1 in the environment before Triton is imported they run on a CPU, slowly.
"""

interpreted = False  # whether the kernels, interpreted, serve a CPU; for tests


def serves(device: str) -> bool:
    """Return whether the kernels of this folder, and not those in C, serve devices of a type."""
    return device == "cuda" or interpreted
