"""The kernel against plain torch, which is its specification."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdquant_cli.native import fake_quantize as native
from sdquant_cli.native.build import load
from sdquant_cli.quant.drop import Draw
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.rounding import (
    Quantizer,
    best_scales,
    plain_gradients,
    plain_values,
    round_gradients,
    round_values,
)
from tests.threads import by_threads

needs_kernel = pytest.mark.skipif(not native.available(), reason="no C compiler here")
DRAWS = st.sampled_from([None, Draw(0, 1 << 30), Draw(2**32 - 1, 2**32 - 1), Draw(12345, 1 << 31)])
SHAPES = st.sampled_from([(1, 1), (3, 5), (2, 7, 3), (4, 3, 5, 6), (2, 9001), (5, 1), (1, 20000), (17,)])


def parameters(shape, *, single, seed):
    """Values far beyond both ends of the grid, exact ties among them; a step and zero per row or one."""
    g = torch.Generator().manual_seed(seed)
    rows = 1 if single else shape[0]
    step = (torch.rand(rows, generator=g) * 2 + 0.01).view(-1, *[1] * (len(shape) - 1))
    codes = torch.randint(-80, 81, shape, generator=g) / 4  # quarters: ties to even matter
    noise = torch.randn(shape, generator=g) * 20
    x = torch.where(torch.rand(shape, generator=g) < 0.5, codes, noise) * step
    return x, torch.randn(shape, generator=g), step, torch.randint(0, 9, step.shape, generator=g).float()


@needs_kernel
@given(SHAPES, st.integers(2, 16), st.booleans(), st.booleans(), st.integers(0, 999), DRAWS)
def test_values_are_equal_to_the_bit(shape, bits, signed, single, seed, draw):
    x, _, step, zero = parameters(shape, single=single, seed=seed)
    quantizer = Quantizer(step, zero * (not signed), Grid(bits, signed), draw)
    assert torch.equal(round_values(x, quantizer), plain_values(x, quantizer))


@needs_kernel
@given(SHAPES, st.integers(2, 16), st.booleans(), st.booleans(), st.integers(0, 999), DRAWS)
def test_gradients_are_equal_but_for_the_order_of_sums(shape, bits, signed, single, seed, draw):
    x, up, step, zero = parameters(shape, single=single, seed=seed)
    quantizer = Quantizer(step, zero * (not signed), Grid(bits, signed), draw)
    to_x, to_scale = round_gradients(x, up, quantizer, to_scale=True)
    exact, by_scale = plain_gradients(x, up, quantizer, to_scale=True)
    assert torch.equal(to_x, exact)
    assert to_scale.shape == step.shape
    torch.testing.assert_close(to_scale, by_scale, rtol=2e-4, atol=2e-3)


@needs_kernel
def test_a_channels_last_tensor_keeps_its_layout():
    x, up, step, zero = parameters((3, 4, 5, 6), single=False, seed=0)
    quantizer, last = Quantizer(step, zero, Grid(4, signed=False)), torch.channels_last
    y = round_values(x.contiguous(memory_format=last), quantizer)
    assert y.is_contiguous(memory_format=last)
    assert torch.equal(y, plain_values(x, quantizer))
    found = round_gradients(x.contiguous(memory_format=last), up, quantizer, to_scale=True)
    expected = plain_gradients(x, up, quantizer, to_scale=True)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_which_values_are_left_does_not_hang_on_the_layout():
    x, _, step, zero = parameters((3, 4, 5, 6), single=False, seed=0)
    quantizer = Quantizer(step, zero, Grid(4, signed=False), Draw(1, 1 << 31))
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(round_values(last, quantizer), round_values(x, quantizer))


@needs_kernel
def test_the_number_of_threads_changes_no_bit():
    x, up, step, zero = parameters((3, 40_001), single=False, seed=1)
    quantizer = Quantizer(step, zero, Grid(8, signed=False))
    first, *others = by_threads(lambda: round_gradients(x, up, quantizer, to_scale=True))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@needs_kernel
def test_what_is_not_a_number_stays_so():
    x = torch.tensor([[float("nan"), 1.0, float("inf")]])
    y = round_values(x, Quantizer(torch.ones(1, 1), torch.zeros(1, 1), Grid(4, signed=True)))
    assert y[0].isnan().tolist() == [True, False, False]
    assert y[0, 2] == 7


@pytest.mark.parametrize(
    "x", [torch.randn(4, 6).double(), torch.randn(6, 4).t(), torch.randn(4, 6).bfloat16()]
)
def test_other_tensors_take_the_plain_path(x, monkeypatch):
    monkeypatch.setattr(native, "forward", lambda *_: pytest.fail("the kernel was called"))
    step = torch.full((4, 1), 0.3, dtype=x.dtype)
    quantizer = Quantizer(step, torch.zeros(1), Grid(4, signed=True))
    assert torch.equal(round_values(x, quantizer), plain_values(x, quantizer))


def test_without_a_compiler_there_is_no_kernel(monkeypatch):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    load.cache_clear()
    assert load("fake_quantize") is None
    load.cache_clear()


@needs_kernel
def test_a_library_is_compiled_once(tmp_path):
    code = "from sdquant_cli.native.build import load; assert load('fake_quantize')"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert len(list((tmp_path / "sdquant" / "native").iterdir())) == 1


@pytest.mark.parametrize("shape", [(1, 1), (4, 9), (320, 5000), (3, 4097)])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_best_scale_has_the_least_error_of_the_plain_functions(shape, bits):
    x, grid = torch.randn(shape, generator=torch.Generator().manual_seed(0)), Grid(bits, signed=True)
    largest, factors = x.abs().amax(1) * -1, torch.linspace(0.3, 1, 7) / -grid.low
    found = best_scales(x, largest, factors, grid)
    scales = largest[:, None] * factors
    rounded = [plain_values(x, Quantizer.symmetric(s[:, None], grid)) for s in scales.T]
    errors = torch.stack([(y - x).double().square().sum(1) for y in rounded], dim=1)
    at = (scales == found[:, None]).int().argmax(1)
    assert torch.equal(scales.gather(1, at[:, None])[:, 0], found)
    chosen = errors.gather(1, at[:, None])[:, 0]
    torch.testing.assert_close(chosen, errors.amin(1), rtol=1e-5, atol=1e-12)


def test_a_row_that_is_no_number_keeps_its_largest_magnitude():
    x, grid = torch.tensor([[torch.nan, 1.0], [2.0, 1.0]]), Grid(4, signed=True)
    found = best_scales(x, torch.tensor([8.0, 2.0]), torch.tensor([0.5, 1.0]) / -grid.low, grid)
    assert found[0] == 8 / -grid.low
    assert found[1] in (torch.tensor([0.5, 1.0]) * 2 / -grid.low)
