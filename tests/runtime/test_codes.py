"""Codes in bytes: nothing is lost, and the kernel writes what plain torch writes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdquant_cli.quant.grid import Grid, quantize
from sdquant_cli.runtime import codes


@given(
    bits=st.integers(2, 8),
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    seed=st.integers(0, 100),
)
def test_packing_loses_nothing(bits, shape, seed):
    grid = Grid(bits, signed=True)
    generator = torch.Generator().manual_seed(seed)
    given_codes = torch.randint(grid.low, grid.high + 1, shape, generator=generator).to(torch.int8)
    packed = codes.pack(given_codes, bits)
    assert packed.shape == codes.packed_shape(given_codes.shape, bits)
    assert torch.equal(codes.unpack(packed, bits, given_codes.shape), given_codes)


def test_four_bits_take_half_the_bytes():
    assert codes.pack(torch.zeros(8, 16, 3, 3, dtype=torch.int8), 4).numel() == 8 * 16 * 9 // 2


def together(planes):
    low, *high = (plane.int() for plane in planes)
    return low + 256 * high[0] if high else low


@given(
    bits=st.integers(2, 16),
    shape=st.sampled_from([(3, 7), (2, 5, 17), (1, 3, 4, 5), (2, 20, 3, 2)]),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    step=st.floats(1e-4, 10.0),
    scale=st.sampled_from([0.01, 1.0, 1e4]),  # the last saturates
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    channels_last=st.booleans(),
    seed=st.integers(0, 100),
)
def test_the_kernel_writes_what_plain_torch_writes(
    bits, shape, padding, step, scale, dtype, channels_last, seed
):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator) * scale).to(dtype)
    zero = int(torch.randint(0, 2**bits, (), generator=generator))
    if x.dim() < 4:
        padding = (0, 0)
    elif channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    ours = codes.quantize(x, step, zero, bits, padding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codes.native, "available", lambda: False)
        plain = codes.quantize(x, step, zero, bits, padding)
    assert len(ours) == len(plain) == 1 + (bits > 8)
    assert torch.equal(together(ours), together(plain))
    inner = together(ours)
    if x.dim() == 4:
        p, q = padding
        assert bool((inner[:, :, :p] == zero).all())
        inner = inner[:, :, p : inner.shape[2] - p, q : inner.shape[3] - q]
    expected = quantize(x.float(), torch.tensor([step]), float(zero), Grid(bits, signed=False))
    assert torch.equal(inner.float(), expected)
