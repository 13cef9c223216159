"""The search for each layer's smoothing."""

from dataclasses import dataclass

import torch
from torch import nn

from sdquant_cli.calibration.observer import QuantizerRules, initial_states
from sdquant_cli.calibration.smoothing import find_smoothings
from sdquant_cli.events import SILENT
from sdquant_cli.quant.format import NumberFormat
from sdquant_cli.quant.modules import quantized_layer
from sdquant_cli.quant.rows import Rows
from sdquant_cli.types import Bits
from tests.calibration.toy import items

TOKEN = NumberFormat(per_token=True, full_range=True, smoothing=True)


@dataclass
class Answer:
    sample: torch.Tensor


class Attention(nn.Module):
    """A network whose first layer makes some channels large, before three layers that read them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(2, 32)
        self.first.weight.data[:3] *= 40
        self.to_q, self.to_k, self.to_v = (nn.Linear(32, 32) for _ in range(3))
        self.out = nn.Linear(32, 2)

    def forward(self, x, timestep, encoder_hidden_states):
        hidden = self.first(x.permute(0, 2, 3, 1))
        q, k, v = self.to_q(hidden), self.to_k(hidden), self.to_v(hidden)
        return Answer(self.out(q * k.sigmoid() + v).permute(0, 3, 1, 2))


def smoothings(bits="w8a8", form=TOKEN):
    network = Attention().requires_grad_(False)
    names = [name for name, _ in network.named_children()]
    return find_smoothings(network, dict.fromkeys(names, Bits.parse(bits)), form, items(), SILENT)


def test_layers_that_read_the_same_tensor_have_the_same_smoothing():
    found = smoothings()
    assert found.keys() == {"first", "to_q", "to_k", "to_v", "out"}
    assert [len(values) for values in found.values()] == [2, 32, 32, 32, 32]
    assert torch.equal(found["to_q"], found["to_k"])
    assert torch.equal(found["to_q"], found["to_v"])


def test_large_channels_become_smaller():
    found = smoothings()["to_v"]
    assert found[:3].max() < found[3:].min()


def test_outputs_round_better_with_tokens_and_with_tables():
    for per_token in (True, False):
        form = NumberFormat(per_token=per_token, full_range=True, smoothing=True)
        network = Attention().requires_grad_(False)
        x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(1))
        hidden = network.first(x.permute(0, 2, 3, 1))
        expected, errors = network.to_v(hidden), []
        for found in ({}, smoothings(form=form)):
            rules = QuantizerRules({"to_v": Bits(8, 8)}, form=TOKEN, smoothings=found)
            state = initial_states({"to_v": network.to_v}, None, rules)["to_v"]
            quantized = quantized_layer(network.to_v, state, Rows([1.0]), weights_on_grid=False)
            errors.append((quantized(hidden) - expected).square().sum().item())
        assert errors[1] < 0.5 * errors[0]


def test_it_is_the_same_every_time():
    assert all(map(torch.equal, smoothings().values(), smoothings().values()))
