"""Small C kernels, compiled by the system's own compiler on first use.

This room knows pointers and sizes only. Every kernel has a plain torch twin in a room above, which is its
specification and takes over where there is no compiler.
"""
