"""The kernel from rows of activations to codes, called with addresses, against plain torch to the bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdquant_cli.native import codes as native
from sdquant_cli.quant.grid import Grid, quantize
from sdquant_cli.quant.tokens import TokenQuantizer
from tests.threads import by_threads

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler here")

GUARD = 99  # around what the kernel may write


def codes(x, bits, smoothing=None, given=None):
    """Codes (rows,line), scales and zero-points of x (rows,C); `given`: those of all rows."""
    count, channels = x.shape
    line = -(-channels // native.LINE) * native.LINE
    planes = [torch.full((count + 2, line), GUARD, dtype=torch.uint8) for _ in range(1 + (bits > 8))]
    scale, zero = torch.full((count,), torch.nan), torch.full((count,), -1)
    scale, zero = scale.clone(), zero.to(torch.int32)
    addresses = [plane[1:].data_ptr() for plane in planes] + [None] * (bits <= 8)
    multipliers = None if smoothing is None else smoothing.data_ptr()
    rows = native.Rows(
        x=x.data_ptr(),
        smoothing=multipliers,
        low=addresses[0],
        high=addresses[1],
        scale=scale.data_ptr(),
        zero=zero.data_ptr(),
        bfloat16=x.dtype is torch.bfloat16,
        items=1,
        rows=count,
        channels=channels,
        line=line,
        top=2**bits - 1,
        epsilon=-1,
    )
    native.codes(rows, *(given or ()))
    assert all(bool((plane[end] == GUARD).all()) for plane in planes for end in (0, -1))
    low, *high = (plane[1:-1].int() for plane in planes)
    return (low + 256 * high[0] if high else low), scale, zero


def random_rows(channels, dtype, seed):
    """Rows of all kinds: around zero, ties, constants, of one sign, zeros, tiny and huge."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(12, channels, generator=generator)
    ties = torch.randint(-40, 41, (channels,), generator=generator) / 4
    rows = [noise[0], noise[1] * 1e4, noise[2] * 1e-4, -noise[3].abs() - 1, noise[4].abs() + 1, ties]
    rows += [torch.zeros(channels), torch.full((channels,), 3.7), torch.full((channels,), -0.2)]
    rows += [noise[5] * 1e-12, noise[6] * 1e30, -torch.zeros(channels)]
    return torch.stack(rows).to(dtype)


def smoothed(x, smoothing):
    return x.float() if smoothing is None else x.float() * smoothing


ROWS = st.builds(
    random_rows,
    st.sampled_from([1, 3, 4, 7, 8, 33, 64, 320, 1024, 1025, 2060]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 999),
)
BITS = st.integers(2, 16)


def test_codes_of_an_example():
    x = torch.tensor([[-1.0, 0.0, 2.0], [0.5, 1.5, 3.0], [-0.5, 2.5, 0.5]])  # halves are ties
    found, scale, zero = codes(x, 2)
    assert found.tolist() == [[*row, *[0] * 5] for row in ([0, 1, 3], [0, 2, 3], [0, 2, 0])]
    assert scale.tolist() == [1, 1, 1]
    assert zero.tolist() == [1, 0, 0]


@given(x=ROWS, bits=BITS, smooth=st.booleans())
def test_each_row_has_the_scale_and_the_codes_of_a_token(x, bits, smooth):
    channels, grid = x.shape[1], Grid(bits, signed=False)
    smoothing = torch.linspace(0.3, 3, channels) if smooth else None
    found, scale, zero = codes(x, bits, smoothing)
    x = smoothed(x, smoothing)
    quantizer = TokenQuantizer(-1, grid).parameters(x)
    assert torch.equal(scale, quantizer.scale[:, 0])
    assert torch.equal(zero, quantizer.zero_point[:, 0].int())
    expected = quantize(x, quantizer.scale, quantizer.zero_point, grid)
    assert torch.equal(found[:, :channels], expected.int())
    assert not found[:, channels:].any()


@given(x=ROWS, bits=BITS, smooth=st.booleans(), step=st.floats(2**-13, 10, width=32), seed=st.integers(0, 99))
def test_a_given_scale_is_that_of_all_rows(x, bits, smooth, step, seed):
    channels, grid = x.shape[1], Grid(bits, signed=False)
    smoothing = torch.linspace(0.3, 3, channels) if smooth else None
    zero = seed % 2**bits
    found, scales, zeros = codes(x, bits, smoothing, (step, zero))
    assert torch.equal(
        found[:, :channels], quantize(smoothed(x, smoothing), torch.tensor(step), zero, grid).int()
    )
    assert not found[:, channels:].any()
    assert bool((scales == step).all())
    assert bool((zeros == zero).all())


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_with_no_number_has_no_finite_scale_and_the_others_keep_theirs(bits, bad):
    x = random_rows(1025, torch.float32, 0)
    whole = codes(x, bits)
    x[3, 1024] = x[7, 0] = bad
    others = [row for row in range(len(x)) if row not in (3, 7)]
    harmed = codes(x, bits)
    assert not harmed[1][[3, 7]].isfinite().any()
    assert all(torch.equal(a[others], b[others]) for a, b in zip(harmed, whole, strict=True))


def test_given_a_scale_infinite_values_have_the_codes_of_the_ends_and_a_row_with_no_number_no_scale():
    x = torch.tensor([[torch.inf, -torch.inf, 1.0, 0.0], [1.0, torch.nan, 0.0, 0.0]])
    found, scales, _ = codes(x, 8, given=(0.5, 7))
    assert found[0, :4].tolist() == [255, 0, 9, 7]
    assert scales[0] == 0.5
    assert scales[1].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(dtype):
    x = random_rows(2060, dtype, 0)
    first, *others = by_threads(lambda: codes(x, 8))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_no_rows_have_no_codes():
    assert [len(part) for part in codes(torch.empty(0, 5), 16)] == [0, 0, 0]
