"""Layers with random codes and scales, for tests of what computes them."""

import torch

from sdquant_cli.quant.format import PAPER
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.state import SavedLayer
from sdquant_cli.runtime.layers import PackedSpec, packed


def saved_layer(layer, bits, tables, form=PAPER, seed=0):
    """Random numbers of a layer, in a format; `tables` entries for inputs, none where tokens have scales."""
    generator = torch.Generator().manual_seed(seed)
    (grid, wide), shape = form.grids(bits), layer.weight.shape
    tables, groups = 0 if form.per_token else tables, form.groups(shape)
    codes = torch.randint(grid.low, grid.high + 1, shape, generator=generator)
    step = torch.rand(shape[0] * groups, generator=generator) * 0.1 + 1e-3
    if form.full_range:
        step = step * (torch.randint(0, 2, step.shape, generator=generator) * 2 - 1)
    return SavedLayer(
        bits,
        codes.to(torch.int8),
        step if groups == 1 else step.half().float(),  # as they are stored
        (torch.rand(tables, generator=generator) + 0.1) * 4 / wide.high,
        torch.randint(0, wide.high + 1, (tables,), generator=generator, dtype=torch.int32),
        smoothing=torch.linspace(0.5, 2, shape[1]) if form.smoothing else None,
    )


def packed_layer(layer, saved, form=PAPER):
    """The packed twin of a layer, with numbers of `saved_layer` and a scale for all rows, if for any."""
    twin = packed(
        layer, PackedSpec(saved.bits, form, len(saved.activation_step), text_fed=False), Rows([1.0])
    )
    twin.fill(saved)
    return twin


@torch.no_grad()
def outputs(layer, x, *engines):
    """The outputs of a packed layer by each engine."""
    found = []
    for engine in engines:
        layer.use(engine)
        found.append(layer(x))
    return found


def largest_sum(saved, x):
    """The magnitude that the sums of a layer's products may have, for an input of scales of its own."""
    rows = saved.codes.reshape(len(saved.weight_step), -1).int().abs().sum(1) * saved.weight_step.abs()
    weights = rows.view(len(saved.codes), -1).sum(1).max()
    smoothing = 1 if saved.smoothing is None else saved.smoothing.max()
    if len(saved.activation_step):
        return float(2**saved.bits.activations * saved.activation_step.max() * weights)
    return float(2 * x.abs().max() * smoothing * weights)
