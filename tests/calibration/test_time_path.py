"""A rounded time path: near the floating-point one, with one activation range for all timesteps."""

import torch

from sdquant_cli.calibration.time_path import round_time_path
from sdquant_cli.models.layers import time_layers
from sdquant_cli.models.load import find_model
from sdquant_cli.models.time_table import tabulate
from sdquant_cli.quant.modules import QuantLinear
from sdquant_cli.types import Bits

TIMESTEPS = (981.0, 481.0, 1.0)


def table(network):
    return torch.cat(list(tabulate(network, TIMESTEPS).values()), dim=1)


def error_at(bits: Bits) -> float:
    network = find_model("shapes").time_path()
    exact = table(network)
    round_time_path(network, TIMESTEPS, bits)
    return float((table(network) - exact).square().mean() / exact.square().mean())


def test_every_layer_has_one_range_over_all_timesteps():
    network = find_model("shapes").time_path()
    names = list(time_layers(network))
    round_time_path(network, TIMESTEPS, Bits(8, 8))
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, QuantLinear)
        assert layer.activation_step.shape == (1,)


def test_more_bits_are_nearer():
    assert error_at(Bits(4, 8)) > error_at(Bits(8, 8)) > error_at(Bits(8, 16)) > 0
