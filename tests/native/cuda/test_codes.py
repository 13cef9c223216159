"""Rounding in the Triton kernels, interpreted."""

import pytest
import torch

codes = pytest.importorskip("sdquant_cli.native.cuda.codes", reason="no Triton here")


def written(x, scale, zero, top):
    """The codes of one row that is rounded with a given scale and zero-point."""
    low, high = torch.empty(2, len(x), dtype=torch.int8)
    numbers = torch.empty(1), torch.empty(1, dtype=torch.int32)
    tables = torch.tensor([scale]), torch.tensor([zero], dtype=torch.int32), torch.tensor([0])
    width = 1 << (len(x) - 1).bit_length()
    codes.codes(
        codes.Values(x, None, None, None, -1.0, 1, 1, len(x)),
        codes.Tables(*tables, 0),
        codes.Written(low, high, *numbers, len(x)),
        codes.Plan(False, False, False, False, top, 1, width),
    )
    return low.int() + 128 + 256 * (high.int() + 128)


def test_halves_go_to_the_even_code():
    x = torch.arange(-7, 8) / 2
    assert written(x, 1.0, 100, 255).tolist() == (torch.round(x).int() + 100).tolist()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of numpy, by which Triton interprets
@pytest.mark.parametrize("top", [255, 65535])
def test_what_is_beyond_the_grid_has_its_ends(top):
    x = torch.tensor([-3.4e38, -1e9, -1.0, 0.0, 1e9, 3.4e38])
    assert written(x, 0.5, 1, top).tolist() == [0, 0, 0, 1, top, top]


def test_the_divisions_are_exact():
    x = torch.randn(999, generator=torch.Generator().manual_seed(0)) * 1000
    expected = (torch.round(x / torch.full_like(x, 0.013)) + 32768).clamp(0, 65535)
    assert torch.equal(written(x, 0.013, 32768, 65535), expected.int())
