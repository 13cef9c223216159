"""Packed layers on CUDA, by the Triton kernels of native/cuda: the twins of products.py and row_codes.py."""
