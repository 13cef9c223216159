import pytest
import torch
from torch import nn

from sdquant_cli.errors import UsageProblem
from sdquant_cli.quant.format import PAPER
from sdquant_cli.quant.grid import Grid, round_to_grid
from sdquant_cli.quant.modules import LayerState
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.state import capture, restore, state_from_arrays, state_to_arrays
from sdquant_cli.quant.swap import swap
from sdquant_cli.types import Bits

BITS = {"conv": Bits(4, 8), "linear": Bits(8, 4)}


class Net(nn.Module):
    """Called like a UNet: network(x, timestep)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.linear = nn.Linear(4, 5)

    def forward(self, x, timestep):
        return self.linear(self.conv(x).flatten(2).transpose(1, 2))


def states(rows=3):
    torch.manual_seed(1)
    made = {}
    for name, bits in BITS.items():
        weight_grid, activation_grid = PAPER.grids(bits)
        out = 4 if name == "conv" else 5
        made[name] = LayerState(
            torch.rand(out) * 0.05 + 0.02,
            torch.rand(rows) * 0.02 + 0.02,
            torch.randint(3, 9, (rows,)).float(),
            weight_grid,
            activation_grid,
        )
    return made


def test_an_empty_map_changes_nothing():
    net, x = Net(), torch.randn(2, 3, 8, 8)
    before = net(x, 1)
    swap(net, {}, Rows([1]), weights_on_grid=False)
    assert torch.equal(net(x, 1), before)


def test_a_module_that_is_no_layer_is_refused_by_name():
    net = Net()
    net.linear = nn.GELU()
    with pytest.raises(TypeError, match=r"^linear is GELU, not a layer that can be quantized"):
        swap(net, states(), Rows([1, 2, 3]), weights_on_grid=False)


def test_quantized_layers_are_still_layers_and_share_their_weights():
    net = Net()
    weight = net.conv.weight
    swap(net, states(), Rows([1, 2, 3]), weights_on_grid=False)
    assert isinstance(net.conv, nn.Conv2d)
    assert isinstance(net.linear, nn.Linear)
    assert net.conv.weight is weight


def test_a_mixed_batch_equals_its_items_alone():
    net, x = Net(), torch.randn(3, 3, 8, 8)
    rows = Rows([981.0, 961.0, 941.0])
    swap(net, states(), rows, weights_on_grid=False)
    rows.follow(net)
    t = torch.tensor([941.0, 981.0, 961.0])
    together = net(x, t)
    alone = torch.cat([net(x[i : i + 1], t[i]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_the_forward_pass_is_rounded_weight_times_rounded_input():
    net, x, made = Net(), torch.randn(1, 3, 8, 8), states(rows=1)
    weight, bias = net.conv.weight.detach().clone(), net.conv.bias.detach().clone()
    swap(net, made, Rows([7.0]), weights_on_grid=False)
    s = made["conv"]
    w = round_to_grid(weight, s.weight_step.view(-1, 1, 1, 1), 0.0, Grid(4, signed=True, narrow=True))
    a = round_to_grid(x, s.activation_step, s.activation_zero, Grid(8, signed=False))
    expected = nn.functional.conv2d(a, w, bias, stride=2, padding=1)
    torch.testing.assert_close(net.conv(x), expected)


def test_a_timestep_without_a_row_is_refused():
    rows = Rows([981.0, 961.0])
    assert rows.find(torch.tensor([961.0004])).tolist() == [1]
    with pytest.raises(UsageProblem, match="timestep 500 is not among the 2 calibrated"):
        rows.find(torch.tensor(500))


def test_state_survives_packing_and_rebuilds_the_same_network():
    net, x, rows = Net(), torch.randn(2, 3, 8, 8), Rows([3.0, 2.0, 1.0])
    original = Net()
    original.load_state_dict(net.state_dict())
    swap(net, states(), rows, weights_on_grid=False)
    rows.follow(net)
    state = capture(net, BITS)
    shapes = {name: layer.codes.shape for name, layer in state.items()}
    again = state_from_arrays(state_to_arrays(state), shapes)
    for name, layer in state.items():
        assert layer.bits == again[name].bits
        for field in ("codes", "weight_step", "activation_step", "activation_zero"):
            assert torch.equal(getattr(layer, field), getattr(again[name], field))
    restore(original, again, PAPER, rows)
    rows.follow(original)
    torch.testing.assert_close(original(x, 2.0), net(x, 2.0))
