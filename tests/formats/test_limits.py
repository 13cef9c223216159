"""What each format loses of a state, and what it computes more finely."""

import pytest
import torch

from sdquant_cli.formats.limits import fits_int8, left_out, lost
from sdquant_cli.quant.branch import Branch
from sdquant_cli.quant.format import NumberFormat
from sdquant_cli.quant.state import SavedLayer, rounded_to_nearest
from sdquant_cli.types import Bits, ExportFormat, Relax

TOKEN = NumberFormat(per_token=True)


def layer(shape=(4, 8), bits="w8a8", **options):
    torch.manual_seed(0)
    return rounded_to_nearest(torch.randn(shape), Bits.parse(bits), NumberFormat(per_token=True, **options))


def with_smoothing(saved):
    return SavedLayer(**{**vars(saved), "smoothing": torch.ones(8)})


def with_branch(saved):
    return SavedLayer(**{**vars(saved), "branch": Branch(torch.zeros(4, 1), torch.zeros(1, 8))})


@pytest.mark.parametrize(
    ("form", "numbers", "relax", "change", "losses"),
    [
        (ExportFormat.SINGLE_FILE, TOKEN, Relax.NONE, lambda x: x, []),
        (ExportFormat.SINGLE_FILE, NumberFormat(), Relax.LAST, lambda x: x, []),
        (ExportFormat.SINGLE_FILE, TOKEN, Relax.NONE, with_branch, ["the branches of 1 layers"]),
        (ExportFormat.SINGLE_FILE, TOKEN, Relax.NONE, with_smoothing, ["smoothings"]),
        (ExportFormat.COMFYUI_INT8, TOKEN, Relax.NONE, lambda x: x, []),
        (ExportFormat.COMFYUI_INT8, NumberFormat(), Relax.LAST, lambda x: x, ["calibrated", "the 10-bit"]),
    ],
)
def test_losses(form, numbers, relax, change, losses):
    said = lost(form, numbers, relax, {"x": change(layer())})
    assert len(said) == len(losses)
    assert all(line.startswith(beginning) for line, beginning in zip(said, losses, strict=True))


def test_which_layers_comfyui_computes_in_int8():
    layers = {
        "plain": layer(),
        "4 bits": layer(bits="w4a8"),
        "16 bits": layer(bits="w8a16"),
        "convolution": layer((4, 8, 3, 3)),
        "groups": layer(group_size=4),
        "smoothing": with_smoothing(layer()),
        "branch": with_branch(layer()),
    }
    assert [name for name, saved in layers.items() if fits_int8(saved)] == ["plain", "4 bits"]
    said = left_out(ExportFormat.COMFYUI_INT8, layers)
    assert "2 of 6 linear layers are int8" in said[0]
    assert "1 linear layers with more stay fp16" in said[1]
    assert "1 linear layers with groups stay fp16" in said[2]
    assert len(left_out(ExportFormat.COMFYUI_INT8, {"plain": layer()})) == 1
