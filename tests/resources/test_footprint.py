"""The cost of a call on the meta device, against what can be counted by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdquant_cli.models.conditioning import Conditioning
from sdquant_cli.resources.footprint import cost_of_call

SIDE, CHANNELS = 8, 4
PIXELS = SIDE * SIDE


class Net(nn.Module):
    """Two convolutions, or attention over pixels."""

    def __init__(self, *, attention: bool = False):
        super().__init__()
        self.attention = attention
        self.first = nn.Conv2d(CHANNELS, 16, 3, padding=1, bias=False)
        self.second = nn.Conv2d(16, CHANNELS, 1, bias=False)

    def forward(self, x: Tensor, timestep: Tensor, encoder_hidden_states: Tensor):
        hidden = self.first(x)
        if self.attention:
            q = hidden.flatten(2).transpose(1, 2)[:, None]
            hidden = F.scaled_dot_product_attention(q, q, q)[:, 0].transpose(1, 2).reshape(hidden.shape)
        return SimpleNamespace(sample=self.second(hidden))


def cost(items: int = 1, *, attention: bool = False, training: bool = False):
    with torch.device("meta"):
        net = Net(attention=attention).requires_grad_(False)
        x = torch.empty(items, CHANNELS, SIDE, SIDE)
        conditioning = Conditioning(torch.empty(items, 3, 5))
    return cost_of_call(net, x, conditioning, training=training)


CONVOLUTIONS = 2 * PIXELS * 16 * CHANNELS * (9 + 1)


@pytest.mark.parametrize("items", [1, 3])
def test_flops_are_two_for_a_multiply_accumulate(items):
    assert cost(items).flops == items * CONVOLUTIONS
    assert cost(items, attention=True).flops == items * (CONVOLUTIONS + 2 * 2 * PIXELS * PIXELS * 16)


def test_memory_is_that_of_activations_that_live_at_once():
    hidden = 4 * PIXELS * 16
    assert hidden < cost().bytes < 2 * hidden
    assert cost(3).bytes == pytest.approx(3 * cost().bytes, rel=0.02)


def test_a_backward_pass_costs_memory_and_arithmetic():
    forward, training = cost(attention=True), cost(attention=True, training=True)
    assert training.flops == forward.flops + CONVOLUTIONS  # of attention only the forward pass is counted
    assert training.bytes > forward.bytes


def test_attention_is_torchs_own_again_after_a_call():
    original = F.scaled_dot_product_attention
    cost(attention=True)
    assert F.scaled_dot_product_attention is original
