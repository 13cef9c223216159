"""What is reconstructed at once, and shortcut convolutions in two."""

import copy
import itertools

import torch

from sdquant_cli.models.blocks import blocks_of
from sdquant_cli.models.conditioning import Conditioning, predict
from sdquant_cli.models.layers import quantizable_layers
from sdquant_cli.models.shortcuts import split_names, split_shortcuts, unsplit, values_by_part


def call(network, items=1):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(items, 4, 16, 16, generator=g)
    tokens = torch.randn(items, 8, network.config.cross_attention_dim, generator=g)
    with torch.no_grad():
        return predict(network, x, torch.tensor([301]), Conditioning(tokens))


def test_units_hold_every_layer_once_in_the_order_they_run(embedded_unet):
    units = blocks_of(embedded_unet, lambda: call(embedded_unet))
    layers = [layer for unit in units for layer in unit.layers]
    assert sorted(layers) == sorted(quantizable_layers(embedded_unet))
    names = [unit.name for unit in units]
    assert names[0] == "conv_in"
    assert names[-1] == "conv_out"
    assert names.index("down_blocks.3.resnets.1") < names.index("mid_block.resnets.0")
    assert names.index("mid_block.resnets.1") < names.index("up_blocks.0.resnets.0")
    assert names.index("down_blocks.0.resnets.0") < names.index("down_blocks.0.attentions.0.proj_in")
    blocks = {unit.name: unit for unit in units}
    assert len(blocks["up_blocks.3.resnets.0"].layers) == 3  # with its shortcut
    assert len(blocks["mid_block.attentions.0.transformer_blocks.0"].layers) == 10
    assert len(units) == 78


def test_units_know_their_arithmetic(embedded_unet):
    units = blocks_of(embedded_unet, lambda: call(embedded_unet))
    first = units[0]
    conv = embedded_unet.conv_in
    assert first.macs == 16 * 16 * conv.out_channels * 4 * 9
    assert (first.before, first.enclosing) == (0, ())
    for earlier, later in itertools.pairwise(units):
        assert later.before == earlier.before + earlier.macs


def test_units_know_what_is_around_them(embedded_unet):
    units = blocks_of(embedded_unet, lambda: call(embedded_unet))
    blocks = {unit.name: unit for unit in units}
    resnet = blocks["up_blocks.1.resnets.2"]
    assert [place.name for place in resnet.enclosing] == ["up_blocks.1"]
    assert resnet.enclosing[0].before == blocks["up_blocks.1.resnets.0"].before
    inside = blocks["up_blocks.1.attentions.2.transformer_blocks.0"]
    assert [place.name for place in inside.enclosing] == ["up_blocks.1", "up_blocks.1.attentions.2"]
    assert inside.enclosing[1].before == blocks["up_blocks.1.attentions.2.proj_in"].before
    # the first unit of both pays for reaching both; the next ones start there
    first, second = blocks["up_blocks.1.attentions.2.proj_in"], inside
    assert resnet.macs_to_end == resnet.before - resnet.enclosing[0].before + resnet.macs
    assert first.macs_to_end == first.before - first.enclosing[0].before + first.macs
    assert second.macs_to_end == first.macs + second.macs
    assert (
        blocks["up_blocks.1.resnets.0"].macs_to_end
        == resnet.enclosing[0].before + blocks["up_blocks.1.resnets.0"].macs
    )
    # a module that holds one unit is no way to reach it
    assert [place.name for place in blocks["down_blocks.0.downsamplers.0.conv"].enclosing] == [
        "down_blocks.0"
    ]


def test_a_split_network_answers_as_the_whole_one(embedded_unet):
    network = copy.deepcopy(embedded_unet)
    split_shortcuts(network)
    assert split_names(quantizable_layers(embedded_unet)) == list(quantizable_layers(network))
    added = set(quantizable_layers(network)) - set(quantizable_layers(embedded_unet))
    assert len(added) == 24  # two for each of the twelve shortcuts on the way up
    resnet = network.get_submodule("up_blocks.1.resnets.2")
    before = network.get_submodule("up_blocks.1.resnets.1").out_channels
    assert resnet.conv_shortcut.upward.in_channels == before
    assert torch.allclose(call(network, 2), call(embedded_unet, 2), atol=1e-4)


def test_parts_are_known_by_their_whole():
    assert unsplit("up_blocks.0.resnets.0.conv_shortcut.skipped") == "up_blocks.0.resnets.0.conv_shortcut"
    assert unsplit("up_blocks.0.resnets.0.conv1") == "up_blocks.0.resnets.0.conv1"
    values = {"a.conv_shortcut": 1, "b": 2}
    names = ["a.conv_shortcut.upward", "a.conv_shortcut.skipped", "b"]
    assert values_by_part(values, names) == {names[0]: 1, names[1]: 1, "b": 2}
