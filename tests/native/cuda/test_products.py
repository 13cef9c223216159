"""The Triton kernels of layers, interpreted, against plain torch in fp64."""

from math import prod

import pytest
import torch
from torch.nn import functional as F

from sdquant_cli.runtime.cuda import products as runtime
from tests.native.test_products import Shape, output_size, plain, problem_of, with_fractions

native = pytest.importorskip("sdquant_cli.native.cuda.products", reason="no Triton here")

ONE = (1, 1)
STILL = (ONE, (0, 0), ONE)  # stride, padding, dilation
BORDER = (ONE, ONE, ONE)
DOWN = ((2, 2), ONE, ONE)
SHAPES = {  # as Shape has them: bits of weights and of codes, kernel, moves, (n, h, w), channels, ...
    "linear": Shape((8, 8), ONE, STILL, (1, 70, 1), 320, None, 40, 0),
    "linear of 4 bits": Shape((4, 8), ONE, STILL, (1, 33, 1), 320, None, 40, 1),
    "linear of few channels": Shape((8, 8), ONE, STILL, (2, 7, 1), 3, None, 5, 2),
    "linear in whole depths": Shape((4, 8), ONE, STILL, (1, 9, 1), 256, None, 7, 3),
    "codes of 16 bits": Shape((8, 16), ONE, STILL, (1, 20, 1), 70, None, 33, 4),
    "codes of 16 bits, weights of 4": Shape((4, 16), (3, 3), BORDER, (2, 5, 4), 70, None, 33, 5),
    "groups": Shape((8, 8), ONE, STILL, (1, 20, 1), 96, 24, 33, 6),
    "groups of 64 with 4 bits": Shape((4, 8), ONE, STILL, (1, 20, 1), 192, 64, 33, 7),
    "3x3": Shape((8, 8), (3, 3), BORDER, (2, 6, 5), 70, None, 33, 8),
    "3x3 of 4 bits": Shape((4, 8), (3, 3), BORDER, (1, 7, 9), 64, None, 40, 9),
    "3x3 with stride 2": Shape((8, 8), (3, 3), DOWN, (2, 7, 5), 40, None, 33, 10),
    "3x3 with groups": Shape((4, 8), (3, 3), BORDER, (1, 5, 5), 48, 8, 20, 11),
    "1x1 with stride 2": Shape((8, 8), ONE, ((2, 1), (0, 0), ONE), (2, 5, 6), 40, None, 33, 12),
    "1x3 with a dilation": Shape((8, 8), (1, 3), (ONE, (0, 2), (1, 2)), (1, 4, 7), 40, None, 20, 13),
}


def shared_by_items(problem):
    """The same with one scale and one zero-point for all pixels of an item."""
    n, pixels = len(problem.codes), problem.codes[0, 0].numel()
    numbers = [part.view(n, pixels)[:, :1].repeat(1, pixels).flatten() for part in problem[1:3]]
    return problem._replace(scale=numbers[0], zero=numbers[1])


def product(problem, *, tile=(64, 64), shared=False, dtype=torch.float32, residual=None, addend=None):
    """The outputs (n,O,h',w') of the kernels; rows of codes lie between numbers that must not count."""
    n, channels, h, w = problem.codes.shape
    (outputs, groups), (weight_bits, code_bits) = problem.step.shape, problem.bits
    size, line, rows = channels // groups, -(-channels // 16) * 16, n * h * w
    depth = 128 if size % 128 == 0 else 64
    generator = torch.Generator().manual_seed(0)
    planes = torch.randint(-128, 128, (code_bits // 8, rows * line + 128), generator=generator).char()
    for plane, codes in enumerate(planes):
        part = ((problem.codes >> (8 * plane)) & 255) - 128
        codes[: rows * line].view(n, h, w, line)[..., :channels] = part.permute(0, 2, 3, 1)
    codes = problem.weight.reshape(outputs, groups, size, -1).permute(0, 3, 1, 2)
    laid_out, steps = runtime.lay_out(codes, depth, weight_bits), problem.step.t().contiguous()
    out_size = tuple(output_size(problem, axis) for axis in (0, 1))
    kernel = tuple(problem.weight.shape[2:])
    to = torch.full((n, *out_size, outputs), 99, dtype=dtype)
    is_plain = (kernel, *problem.moves) == (ONE, *STILL)
    numbers = (weight_bits, len(planes), prod(kernel), groups, -(-size // depth), depth)
    native.product(
        native.Weight(laid_out, runtime.sums(codes), steps, problem.bias, outputs, laid_out.shape[1], size),
        native.Input(planes[0], planes[-1] if len(planes) > 1 else None, *problem[1:3], line),
        native.Output(to, residual, addend, n * prod(out_size)),
        native.Moves((h, w), out_size, kernel, *problem.moves),
        native.Plan(*numbers, shared, is_plain, *tile),
    )
    return to.permute(0, 3, 1, 2)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_layers_are_those_of_torch(shape):
    assert_as_torch(problem_of(shape), shared=False)


WITHOUT_GROUPS = {name: shape for name, shape in SHAPES.items() if shape.group is None}


@pytest.mark.parametrize("shape", WITHOUT_GROUPS.values(), ids=WITHOUT_GROUPS)
def test_layers_whose_items_have_one_scale_are_those_of_torch(shape):
    assert_as_torch(shared_by_items(problem_of(shape)), shared=True)


def assert_as_torch(problem, *, shared):
    exact, largest = plain(problem)
    error = (product(problem, shared=shared) - exact).abs()
    assert bool((error <= 1e-6 * largest).all())
    assert not error[largest * 2**4 < 2**24].any()  # in parts of 2**-4


def test_the_largest_codes_overflow_nothing():
    top = 2**16 - 1
    codes = torch.tensor([0, top, 0, top]).view(4, 1, 1, 1).expand(4, 1024, 1, 1)
    shape = Shape((8, 16), ONE, STILL, (4, 1, 1), 1024, None, 2, 0)
    weight = torch.tensor([-128, 127], dtype=torch.int8).view(2, 1, 1, 1).expand(2, 1024, 1, 1)
    ones = torch.ones(4)
    problem = problem_of(shape)._replace(
        codes=codes, zero=torch.tensor([top, 0, 0, top]), weight=weight, scale=ones, step=torch.ones(2, 1)
    )
    y = product(problem._replace(bias=torch.zeros(2)))[:, :, 0, 0]
    each = 1024.0 * top * torch.tensor([-128.0, 127.0])
    assert torch.equal(y, torch.stack([-each, each, 0 * each, 0 * each]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["linear of 4 bits", "3x3"])
def test_a_residual_and_an_addend_are_added_before_rounding(name, dtype):
    problem, generator = problem_of(SHAPES[name]), torch.Generator().manual_seed(2)
    problem = problem._replace(step=problem.step / 64)  # fp16 ends at 65504
    exact, largest = plain(problem)
    addend = torch.randn(exact.shape[:2], generator=generator) * 100
    residual = (torch.randn(exact.shape, generator=generator) * 100).to(dtype)
    expected = exact + addend[:, :, None, None] + residual
    rows = residual.permute(0, 2, 3, 1).contiguous()
    error = (product(problem, dtype=dtype, residual=rows, addend=addend) - expected).abs()
    rounding = torch.finfo(dtype).eps if dtype is not torch.float32 else 0
    assert bool((error <= 1e-6 * (largest + 1e3) + rounding * expected.abs()).all())


@pytest.mark.parametrize("name", ["linear", "groups", "3x3"])
def test_a_tile_changes_no_bit(name):
    problem = with_fractions(problem_of(SHAPES[name]))
    assert torch.equal(product(problem), product(problem, tile=(32, 64)))


def test_a_row_of_no_number_gives_none_and_no_other_does():
    problem = problem_of(SHAPES["3x3"])
    problem.scale[7] = torch.nan
    pixels = torch.zeros(2, 1, 6, 5)
    pixels.view(-1)[7] = 1
    reached = F.conv2d(pixels, torch.ones(1, 1, 3, 3), padding=1).expand(2, 33, 6, 5) > 0
    assert torch.equal(product(problem).isnan(), reached)
