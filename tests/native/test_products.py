"""The kernels of layers, called with addresses, against plain torch: as this CPU and as others have them."""

import os
import platform
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sdquant_cli.native import build
from sdquant_cli.native import products as native
from tests.threads import by_threads

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler here")

GUARD = 8  # outputs before and after those of a layer, that must stay as they are
LAYOUTS = {  # int32 in a vector, rows and vectors of a tile, whether bytes are widened; () as this CPU has it
    "this CPU": (),
    "AVX512-VNNI": (16, 6, 4, 0),
    "AVX512": (16, 6, 4, 1),
    "AVX-VNNI": (8, 6, 2, 0),
    "AVX2": (8, 6, 2, 1),
    "any": (4, 4, 2, 1),
}


on_all_cpus = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@contextmanager
def kernels(layout):
    """Have the kernels laid out as on some CPU."""
    names = ("LANES", "ROWS", "VECTORS", "WIDENED")
    macros = tuple(f"PRODUCTS_{name}={value}" for name, value in zip(names, layout, strict=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "load", lambda name: build.load(name, macros))
        native._library.cache_clear()
        yield
    native._library.cache_clear()


class Problem(NamedTuple):
    """A layer, its input and what is added, as plain tensors."""

    codes: torch.Tensor  # (n,C,h,w) int32
    scale: torch.Tensor  # (n h w)
    zero: torch.Tensor  # as many
    weight: torch.Tensor  # (O,C,kh,kw) int8
    step: torch.Tensor  # (O,groups)
    bias: torch.Tensor  # (O)
    bits: tuple[int, int]  # of weights, 4 or 8, and of codes, 8 or 16
    moves: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # stride, padding, dilation


def lay_out(weight, groups, bits):
    """A layer of a weight, without what else it has, and its panels and sums, which must stay in memory."""
    outputs, channels, *kernel = weight.shape
    panels, taps, line = -(-outputs // native.WIDE), kernel[0] * kernel[1], -(-channels // 8) * 8
    segments = groups * -(-(channels // groups) // native.segment_channels())
    laid_out = torch.zeros(panels, taps * line * native.WIDE * bits // 8, dtype=torch.uint8)
    sums = torch.zeros(panels, taps, segments, native.WIDE, dtype=torch.int32)
    places = laid_out.data_ptr(), sums.data_ptr()
    layer = native.Layer(*places, None, None, channels, outputs, groups, bits, tuple(kernel))
    flat = weight.flatten(1)
    if bits == 4:  # two codes in a byte, the first in the low half
        flat = F.pad(flat, (0, flat.shape[1] % 2)) & 15
        flat = flat[:, ::2] | (flat[:, 1::2] << 4)
    flat = flat.contiguous()
    native.lay_out(layer, flat.data_ptr(), *places)
    return layer, laid_out, sums


def product(problem, dtype=torch.float32, residual=None, addend=None):
    """The outputs (n,O,h',w') of the kernels."""
    n, channels, h, w = problem.codes.shape
    outputs, groups = problem.step.shape
    rows = F.pad(problem.codes.permute(0, 2, 3, 1), (0, -channels % 8)).contiguous()
    high = None if problem.bits[1] == 8 else (rows >> 8).to(torch.uint8)
    parts = (rows & 255).to(torch.uint8), high, problem.scale, problem.zero.int()
    inputs = native.Input(*map(address, parts), rows.shape[-1], (n, h, w))

    layer, *held = lay_out(problem.weight, groups, problem.bits[0])
    step = F.pad(problem.step, (0, 0, 0, -outputs % native.WIDE)).view(-1, native.WIDE, groups)
    step, bias = step.transpose(1, 2).contiguous(), F.pad(problem.bias, (0, -outputs % native.WIDE))
    layer.scales, layer.bias = step.data_ptr(), bias.data_ptr()
    layer.stride, layer.padding, layer.dilation = problem.moves

    size = [output_size(problem, axis) for axis in (0, 1)]
    guarded = torch.full((2 * GUARD + n * size[0] * size[1] * outputs,), 99, dtype=dtype)
    places = map(address, (guarded[GUARD:], residual, addend))
    native.product(layer, inputs, native.Output(*places, dtype is torch.bfloat16, tuple(size)))
    del held  # until here
    assert bool((guarded[:GUARD] == 99).all())
    assert bool((guarded[-GUARD:] == 99).all())
    return guarded[GUARD:-GUARD].view(n, *size, outputs).permute(0, 3, 1, 2)


def address(tensor):
    return None if tensor is None else tensor.data_ptr()


def output_size(problem, axis):
    stride, padding, dilation = (move[axis] for move in problem.moves)
    reach = dilation * (problem.weight.shape[2 + axis] - 1) + 1
    return (problem.codes.shape[2 + axis] + 2 * padding - reach) // stride + 1


def plain(problem):
    """The outputs of torch, in fp64, and the sums of magnitudes in them."""
    n, channels, h, w = problem.codes.shape
    scale, zero = (part.double().expand(n * h * w).view(n, 1, h, w) for part in (problem.scale, problem.zero))
    each = channels // problem.step.shape[1]
    step = problem.step.double().repeat_interleave(each, dim=1)[:, :, None, None]
    x, weight = (problem.codes - zero) * scale, problem.weight * step
    bias = problem.bias.double()
    exact = F.conv2d(x, weight, bias, *problem.moves)
    return exact, F.conv2d(x.abs(), weight.abs(), bias.abs(), *problem.moves)


class Shape(NamedTuple):
    """All that a problem follows from."""

    bits: tuple[int, int]
    kernel: tuple[int, int]
    moves: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    size: tuple[int, int, int]  # n, h, w
    channels: int
    group: int | None  # channels that share a scale
    outputs: int
    seed: int


def pairs(least):
    return st.tuples(st.integers(least, 2), st.integers(least, 2))


SHAPES = st.builds(
    Shape,
    st.sampled_from([(4, 8), (8, 8), (4, 16), (8, 16)]),
    st.sampled_from([(1, 1), (3, 3), (1, 3)]),
    st.tuples(pairs(1), pairs(0), pairs(1)),
    st.sampled_from([(1, 1, 1), (7, 1, 1), (130, 1, 1), (1, 5, 6), (2, 7, 5), (3, 1, 9), (0, 5, 5)]),
    st.sampled_from([1, 3, 8, 24, 33, 64, 250, 520, 1100]),
    st.sampled_from([None, 8, 24, 64, 520]),
    st.integers(1, 130),
    st.integers(0, 999),
)


def problem_of(shape):
    """A layer with scales that are powers of two: sums are exact while 24 bits hold them."""
    generator = torch.Generator().manual_seed(shape.seed)
    (weight_bits, code_bits), moves, (n, *size) = shape.bits, shape.moves, shape.size
    for axis in (0, 1):  # at least one pixel of output
        size[axis] = max(size[axis], moves[2][axis] * (shape.kernel[axis] - 1) + 1 - 2 * moves[1][axis])
    whole = shape.group is None or shape.channels % shape.group
    groups = 1 if whole else shape.channels // shape.group
    rows = n * size[0] * size[1]
    half = 2 ** (weight_bits - 1)

    def integers(low, high, *shape):
        return torch.randint(low, high + 1, shape, generator=generator)

    return Problem(
        integers(0, 2**code_bits - 1, n, shape.channels, *size),
        2.0 ** integers(-2, 2, rows),
        integers(0, 2**code_bits - 1, rows),
        integers(-half, half - 1, shape.outputs, shape.channels, *shape.kernel).char(),
        2.0 ** integers(-2, 2, shape.outputs, groups),
        integers(-99, 99, shape.outputs).float(),
        shape.bits,
        moves,
    )


@on_all_cpus
@given(shape=SHAPES)
def test_layers_are_those_of_torch(layout, shape):
    problem = problem_of(shape)
    exact, largest = plain(problem)
    with kernels(layout):
        error = (product(problem) - exact).abs()
    assert bool((error <= 1e-6 * largest).all())
    assert not error[largest * 2**4 < 2**24].any()  # in parts of 2**-4


SEVERAL = Shape(  # blocks of rows, panels, taps and segments
    (8, 8), (1, 3), ((1, 1), (0, 1), (1, 1)), (3, 7, 9), 600, None, 70, 0
)


def with_fractions(problem):
    """The same with scales and a bias whose sums are rounded, so that their order can be seen."""
    generator = torch.Generator().manual_seed(1)
    changed = [torch.rand(part.shape, generator=generator) - 0.5 for part in (problem.scale, problem.step)]
    return problem._replace(scale=changed[0], step=changed[1], bias=problem.bias * 3.7e4)


@on_all_cpus
@pytest.mark.parametrize("code_bits", [8, 16])
@pytest.mark.parametrize("weight", [-128, 127])
def test_the_largest_codes_overflow_nothing(layout, weight, code_bits):
    top = 2**code_bits - 1
    codes = torch.tensor([0, top, 0, top]).view(4, 1, 1, 1).expand(4, 1024, 1, 1)
    zero = torch.tensor([top, 0, 0, top])
    weights = torch.full((1, 1024, 1, 1), weight, dtype=torch.int8)
    moves = (1, 1), (0, 0), (1, 1)
    problem = Problem(
        codes, torch.ones(4), zero, weights, torch.ones(1, 1), torch.zeros(1), (8, code_bits), moves
    )
    with kernels(layout):
        y = product(problem).flatten()
    assert y.tolist() == [-1024 * top * weight, 1024 * top * weight, 0, 0]


@on_all_cpus
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("channels", "groups", "outputs"), [(33, 1, 70), (48, 6, 5), (1100, 1, 3)])
def test_a_weight_is_laid_out_in_panels_and_summed_by_segments(layout, bits, channels, groups, outputs):
    kernel, panels, wide = (2, 3), -(-outputs // native.WIDE), native.WIDE
    half, generator = 2 ** (bits - 1), torch.Generator().manual_seed(0)
    weight = torch.randint(-half, half, (outputs, channels, *kernel), generator=generator).char()
    with kernels(layout):
        segment = min(native.segment_channels(), channels // groups)
        _, laid_out, sums = lay_out(weight, groups, bits)
    padded = F.pad(weight.flatten(2), (0, 0, 0, -channels % 8, 0, -outputs % wide))
    padded = padded.view(panels, wide, -1, 8, 6).permute(0, 4, 2, 3, 1)  # (panels,taps,C/8,8,WIDE)
    quads = padded.unflatten(3, (2, 4)).transpose(4, 5)  # (panels,taps,C/8,2,WIDE,4)
    expected = quads if bits == 8 else (quads[:, :, :, 0] & 15) | (quads[:, :, :, 1] << 4)
    assert torch.equal(laid_out.view(torch.int8).flatten(), expected.flatten())
    parts = [part.int().sum(1) for rest in weight.chunk(groups, 1) for part in rest.split(segment, 1)]
    by_segment = F.pad(torch.stack(parts, 1).flatten(2), (0, 0, 0, 0, 0, -outputs % wide))
    assert torch.equal(sums, by_segment.view(panels, wide, len(parts), 6).permute(0, 3, 2, 1).int())


@given(shape=SHAPES, dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_residual_and_an_addend_are_added_before_rounding(shape, dtype):
    problem, generator = problem_of(shape), torch.Generator().manual_seed(2)
    exact, largest = plain(problem)
    addend = torch.randn(len(exact), shape.outputs, generator=generator) * 1e3
    residual = (torch.randn(exact.shape, generator=generator) * 1e3).to(dtype)
    expected = exact + addend[:, :, None, None] + residual
    rows = residual.permute(0, 2, 3, 1).contiguous()
    error = (product(problem, dtype, rows, addend) - expected).abs()
    rounding = 2**-8 if dtype is torch.bfloat16 else 0
    assert bool((error <= 1e-6 * (largest + 1e4) + rounding * expected.abs()).all())


SPECIAL = [torch.nan, torch.inf, -torch.inf, 3.4e38, -3.4e38, 1e-40, 0.0, 1 + 2**-8, 1 + 3 * 2**-8, -1.0039]


@on_all_cpus
def test_outputs_in_bfloat16_are_rounded_as_torch_rounds(layout):
    generator = torch.Generator().manual_seed(0)
    no_numbers = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)  # of most bits
    bias = torch.cat([torch.tensor(SPECIAL), no_numbers, torch.randn(121, generator=generator)])
    codes, zero = torch.full((7, 4, 1, 1), 5), torch.full((7,), 5)
    weight, step = torch.full((len(bias), 4, 1, 1), 3, dtype=torch.int8), torch.ones(len(bias), 1)
    moves = (1, 1), (0, 0), (1, 1)
    problem = Problem(codes, torch.ones(7), zero, weight, step, bias, (8, 8), moves)
    with kernels(layout):
        whole, half = product(problem), product(problem, torch.bfloat16)
    assert torch.equal(whole.nan_to_num(77), bias.expand(7, -1)[:, :, None, None].nan_to_num(77))
    assert torch.equal(half.isnan(), whole.isnan())
    assert torch.equal(half.nan_to_num(77), whole.bfloat16().nan_to_num(77))


@on_all_cpus
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(layout, dtype):
    problem = with_fractions(problem_of(SEVERAL))
    with kernels(layout):
        first, *others = by_threads(lambda: product(problem, dtype))
    assert all(torch.equal(first, other) for other in others)


@on_all_cpus
def test_a_batch_is_computed_as_its_items_are(layout):
    problem = with_fractions(problem_of(SEVERAL))
    scale, zero = problem.scale.view(3, -1), problem.zero.view(3, -1)
    with kernels(layout):
        together = product(problem)
        alone = [
            product(problem._replace(codes=problem.codes[i : i + 1], scale=scale[i], zero=zero[i]))
            for i in range(3)
        ]
    assert torch.equal(together, torch.cat(alone))


def test_what_a_cpu_decides_agrees_but_for_the_order_of_sums():
    problem, found = with_fractions(problem_of(SEVERAL)), []
    _, largest = plain(problem)
    for layout in LAYOUTS.values():
        with kernels(layout):
            found.append(product(problem))
    assert all(bool(((found[0] - other).abs() <= 1e-6 * largest).all()) for other in found[1:])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of other CPUs")
@pytest.mark.parametrize("cpu", ["x86-64", "haswell", "skylake-avx512", "cascadelake", "alderlake"])
def test_kernels_compile_for_other_cpus_without_warnings(cpu, tmp_path):
    """What is compiled is not run: this CPU may lack its instructions."""
    flags = [*build.FLAGS[1:], f"-march={cpu}", "-O0", "-Wall", "-Wextra", "-Werror"]
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    for name in ("products", "codes"):
        source = Path(build.__file__).with_name(f"{name}.c")
        subprocess.run([compiler, *flags, "-c", source, "-o", tmp_path / "out.o"], check=True)
