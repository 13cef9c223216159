"""Small C kernels, compiled by the system's own compiler on first use. Knows pointers and sizes only.

Every kernel has a plain torch twin above this room, which is its specification and takes over where
there is no compiler.
"""
