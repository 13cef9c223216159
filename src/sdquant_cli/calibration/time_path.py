"""Rounding of the time path: what a network that keeps it, quantized, would compute."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..models.layers import time_layers
from ..models.time_table import tabulate
from ..quant.rows import Rows
from ..quant.swap import swap
from ..types import Bits, Tables
from .observer import Passes, QuantizerRules, observe_and_initialise


def round_time_path(
    network: nn.Module, timesteps: Sequence[float], bits: Bits, guidance: Tensor | None = None
) -> None:
    """Round the time path's layers in place, each with one activation range over all timesteps.

    `guidance` (1,G) is the embedding of the guidance scale, in a network that takes one.
    """
    layers = time_layers(network)
    one_row = torch.zeros(len(timesteps), dtype=torch.long)
    passes = Passes(one_row, 1, 1, 1, [(one_row, partial(tabulate, network, timesteps, guidance))])
    rules = QuantizerRules(dict.fromkeys(layers, bits), Tables.SINGLE)
    states, _ = observe_and_initialise(layers, passes, rules)
    swap(network, states, Rows(timesteps), weights_on_grid=False)
    network.requires_grad_(False)
