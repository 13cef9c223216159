"""Attention with its products in the open, and their rounding."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

from sdquant_cli.calibration.bit_allocation import check_attention
from sdquant_cli.calibration.observer import Observations, QuantizerRules, initial_states
from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.attention import TAPS, OpenAttention, attend, attention_taps, open_attention
from sdquant_cli.models.layers import is_text_fed
from sdquant_cli.models.load import find_model
from sdquant_cli.options.requests import CalibrateRequest
from sdquant_cli.quant.format import PAPER
from sdquant_cli.quant.grid import Grid, round_to_grid
from sdquant_cli.quant.modules import LayerState, QuantInput
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.state import capture, restore, state_from_arrays, state_to_arrays
from sdquant_cli.quant.swap import swap
from sdquant_cli.types import Bits, Ranges

HEADS, WIDTH, TEXT = 2, 8, 6
NO_WEIGHT = torch.empty(0)
BITS = {f"attn.processor.{place}": Bits(0, 16 if place == "probabilities" else 8) for place in TAPS}


class Net(nn.Module):
    """One attention, called like a UNet."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attn = Attention(WIDTH, TEXT, heads=HEADS, dim_head=WIDTH // HEADS, processor=AttnProcessor2_0())

    def forward(self, x, timestep, text):
        return self.attn(x, encoder_hidden_states=text)


def numbers(items=3):
    g = torch.Generator().manual_seed(1)
    return torch.randn(items, 10, WIDTH, generator=g), torch.randn(items, 7, TEXT, generator=g)


def quantizers(rows=2):
    g = torch.Generator().manual_seed(2)
    made = {}
    for name, bits in BITS.items():
        probabilities = name.endswith("probabilities")
        step = (1 + torch.rand(rows, generator=g)) * (2**-16 if probabilities else 0.02)
        zero = torch.zeros(rows) if probabilities else torch.tensor([120.0, 131.0])[:rows]
        made[name] = LayerState(NO_WEIGHT, step, zero, *PAPER.grids(bits))
    return made


def rounded_net(rows):
    net = Net()
    open_attention(net)
    swap(net, quantizers(len(rows.timesteps)), rows, weights_on_grid=False)
    rows.follow(net)
    return net


def reference(attn, x, text, made, row):
    """Attention of one item (L,C) from its definition, head by head, its four inputs rounded."""

    def put(value, place):
        s = made[f"attn.processor.{place}"]
        return round_to_grid(value, s.activation_step[row], s.activation_zero[row], s.activation_grid)

    q, k, v = put(attn.to_q(x), "q"), put(attn.to_k(text), "k"), put(attn.to_v(text), "v")
    parts = [t.chunk(HEADS, dim=-1) for t in (q, k, v)]
    outputs = []
    for q, k, v in zip(*parts, strict=True):
        exponents = torch.exp(q @ k.T / (WIDTH / HEADS) ** 0.5)
        outputs.append(put(exponents / exponents.sum(1, keepdim=True), "probabilities") @ v)
    return attn.to_out[0](torch.cat(outputs, dim=-1))


@pytest.mark.parametrize("crossed", [False, True])
def test_opened_attention_is_that_of_diffusers(crossed):
    torch.manual_seed(0)
    attn = Attention(WIDTH, TEXT if crossed else None, heads=HEADS, dim_head=4, processor=AttnProcessor2_0())
    x, text = numbers()
    expected = attn(x, encoder_hidden_states=text if crossed else None)
    open_attention(nn.ModuleDict({"attn1": attn}))
    assert isinstance(attn.processor, OpenAttention)
    torch.testing.assert_close(attn(x, encoder_hidden_states=text if crossed else None), expected)


def test_products_are_of_rounded_numbers_each_item_by_its_row():
    rows = Rows([9.0, 5.0])
    net, (x, text), made = rounded_net(rows), numbers(), quantizers()
    with torch.no_grad():
        found = net(x, torch.tensor([5.0, 9.0, 5.0]), text)
        expected = [reference(net.attn, x[i], text[i], made, row) for i, row in enumerate((1, 0, 1))]
        unrounded = Net()(x, None, text)
    torch.testing.assert_close(found, torch.stack(expected))
    assert (found - unrounded).abs().max() > 1e-3


def test_many_probabilities_come_in_parts_with_the_same_gradients():
    torch.manual_seed(3)
    q, k, v = (torch.randn(2, n, WIDTH, requires_grad=True) for n in (10, 7, 7))
    grid, shapes = Grid(4, signed=False), []

    def place(p):
        shapes.append(tuple(p.shape))
        return round_to_grid(p.detach(), torch.tensor(1 / 15), 0, grid) - p.detach() + p

    whole = attend(q, k, v, HEADS, place)
    expected = torch.autograd.grad(whole.square().sum(), (q, k, v))
    parted = attend(q, k, v, HEADS, place, at_once=2 * HEADS * 7 * 4)
    found = torch.autograd.grad(parted.square().sum(), (q, k, v))
    forward = [(2, HEADS, 10, 7), (2, HEADS, 4, 7), (2, HEADS, 3, 7), (2, HEADS, 3, 7)]
    assert shapes[:4] == forward
    assert sorted(shapes[4:]) == sorted(forward[1:])  # again, for the backward pass
    torch.testing.assert_close(parted, whole)
    torch.testing.assert_close(found, expected)


def test_grids_of_probabilities_start_at_zero():
    net, (x, text) = Net(), numbers(4)
    open_attention(net)
    places = {name: net.get_submodule(name) for name in attention_taps(net)}
    assert list(places) == list(BITS)
    row = torch.tensor([0, 1, 1, 0])
    observed = Observations(places, row, 2)
    with torch.no_grad(), observed.watching(row):
        net(x, None, text)
    for ranges in Ranges:
        rules = QuantizerRules(BITS, ranges=ranges, has_one_row=lambda name: name.endswith(".k"))
        states = initial_states(observed.layers, observed, rules)
        assert states["attn.processor.probabilities"].activation_zero.tolist() == [0, 0]
        assert (states["attn.processor.q"].activation_zero > 0).all()
        assert [len(s.activation_step) for s in states.values()] == [2, 1, 2, 2]
        assert all(len(s.weight_step) == 0 for s in states.values())
    seen = [net.attn.to_q(x[i]).detach() for i in range(4)]
    extremes = torch.stack([torch.stack([t.amin(), t.amax()]) for t in seen])
    low = torch.stack([extremes[[0, 3], 0].amin(), extremes[[1, 2], 0].amin()])
    torch.testing.assert_close(observed.low["attn.processor.q"], low)


def test_a_state_with_places_survives_packing_and_rebuilds_the_network():
    rows, (x, text) = Rows([9.0, 5.0]), numbers()
    net = rounded_net(rows)
    state = state_from_arrays(state_to_arrays(capture(net, BITS)), dict.fromkeys(BITS, torch.Size([0])))
    assert {name: saved.bits for name, saved in state.items()} == BITS
    again = Net()
    open_attention(again)
    restore(again, state, PAPER, rows)
    rows.follow(again)
    t = torch.tensor([9.0, 5.0, 9.0])
    assert torch.equal(again(x, t, text), net(x, t, text))


def test_step_sizes_get_gradients():
    rows, (x, text) = Rows([9.0, 5.0]), numbers()
    net = rounded_net(rows)
    net(x, torch.tensor([9.0, 9.0, 9.0]), text).square().sum().backward()
    for module in net.modules():
        if isinstance(module, QuantInput):
            assert module.activation_step.grad[0] != 0
            assert module.activation_step.grad[1] == 0


def test_every_attention_of_a_unet_has_places(embedded_unet):
    places = attention_taps(embedded_unet)
    assert len(places) == 16 * 2 * len(TAPS)
    assert sum(map(is_text_fed, places)) == 16 * 2  # k and v of attn2
    opened = copy.deepcopy(embedded_unet)
    open_attention(opened)
    assert attention_taps(opened) == places
    assert all(isinstance(opened.get_submodule(name), nn.Identity) for name in places)


def test_an_attention_of_another_kind_is_refused(tiny):
    model, request = find_model(str(tiny("sd3-medium"))), CalibrateRequest(attention_bits=8)
    with pytest.raises(UsageProblem, match="--attention-bits 8: Stable Diffusion 3 has another attention"):
        check_attention(request, model)
    check_attention(CalibrateRequest(), model)
