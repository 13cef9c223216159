"""Lowered layers compute what quantized layers specify, at every row."""

import pytest
import torch
from torch import nn

from sdquant_cli.formats.lowered import GraphLayer, GraphRows
from sdquant_cli.metrics.ratios import snr
from sdquant_cli.quant.branch import Branch
from sdquant_cli.quant.format import NumberFormat
from sdquant_cli.quant.relaxing import relaxed_rows
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.state import SavedLayer, restore, rounded_to_nearest
from sdquant_cli.types import Bits, Relax

TIMESTEPS = (901.0, 601.0, 301.0, 1.0)


class Network(nn.Module):
    """A network of one layer, called as a denoiser is."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, timestep):
        return self.layer(x)


LAYERS = {
    "linear": (lambda: nn.Linear(8, 6), (3, 5, 8)),
    "without bias": (lambda: nn.Linear(8, 6, bias=False), (3, 8)),
    "convolution": (lambda: nn.Conv2d(8, 6, 3, padding=1), (3, 8, 7, 5)),
    "strided": (lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1), (3, 8, 8, 8)),
    "1x1": (lambda: nn.Conv2d(8, 6, 1), (3, 8, 4, 4)),
}
VARIANTS = {
    "plain": {},
    "a scale below zero": {"negative": True},
    "4 bits": {"bits": "w4a6"},
    "16 bits": {"bits": "w8a16"},
    "groups": {"group_size": 4},
    "a branch": {"rank": 2},
    "smoothing": {"smooth": True},
}


def saved(layer, bits="w8a8", *, group_size=None, rank=None, smooth=False, negative=False, tables=4):
    """A layer's state with other scales and zero-points at each row."""
    g = torch.Generator().manual_seed(1)
    bits = Bits.parse(bits)
    rounded = rounded_to_nearest(
        layer.weight.detach(), bits, NumberFormat(per_token=True, group_size=group_size)
    )
    high = 2**bits.activations - 1
    fields = vars(rounded) | {
        "activation_step": torch.linspace(3, 9, tables) / high,
        "activation_zero": (torch.linspace(0.2, 0.8, tables) * high).round().to(torch.int32),
    }
    if negative:
        fields["weight_step"] = rounded.weight_step * torch.tensor([1.0, -1, 1, 1, -1, 1])
    if rank:
        inputs = layer.weight.shape[1:]
        up, down = torch.randn(6, rank, generator=g).half(), torch.randn(rank, *inputs, generator=g).half()
        fields["branch"] = Branch(up, down)
    if smooth:
        fields["smoothing"] = torch.rand(8, generator=g) + 0.5
    return SavedLayer(**fields)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_at_each_row(name, variant):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x = make(), torch.randn(shape)
    options = VARIANTS[variant]
    state = saved(layer, **options)
    rows, graph_rows = Rows(TIMESTEPS), GraphRows(TIMESTEPS)
    form = NumberFormat(
        full_range=True,
        group_size=options.get("group_size"),
        branch_rank=options.get("rank"),
        smoothing=options.get("smooth", False),
    )
    lowered = Network(GraphLayer(layer, state, graph_rows))
    specified = Network(layer)
    graph_rows.follow(lowered)
    rows.follow(specified)
    restore(specified, {"layer": state}, form, rows)
    with torch.no_grad():
        for timestep in TIMESTEPS:
            t = torch.tensor([timestep])
            expected, computed = specified(x, t), lowered(x, t)
            assert float(snr(expected[None], computed[None])) > 60  # a tie may be rounded to the other side


def test_one_entry_serves_all_rows():
    torch.manual_seed(0)
    layer = nn.Linear(8, 6)
    rows = GraphRows(TIMESTEPS)
    lowered = GraphLayer(layer, saved(layer, tables=1), rows)  # its rows are never asked for
    assert lowered(torch.randn(2, 8)).shape == (2, 6)


def test_relaxed_rows_have_their_range_on_the_usual_grid():
    torch.manual_seed(0)
    layer = nn.Linear(8, 6)
    state = saved(layer)
    wide = SavedLayer(**{**vars(state), "activation_step": state.activation_step.clone()})
    wide.activation_step[3] = 9 / 1023
    wide.activation_zero[3] = round(0.8 * 1023)
    lowered = GraphLayer(layer, wide, GraphRows(TIMESTEPS), relaxed_rows(Relax.LAST, 4))
    assert torch.allclose(lowered.step, state.activation_step)
    assert torch.equal(lowered.zero[:3], state.activation_zero[:3].float())
    assert abs(lowered.zero[3] - 0.8 * 255) <= 1
