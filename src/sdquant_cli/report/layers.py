"""Quantization of a model's layers: activation ranges by timestep, and a map of all bits."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from ..artifacts.lineage import Lineage
from ..errors import SdquantError
from ..methods.number_choices import floating_layers
from ..models.layers import is_text_fed
from ..models.load import ModelName, find_model
from ..models.shortcuts import PARTS, split_names
from ..quant.relaxing import bits_of_rows, relaxed_rows
from ..types import Bits
from . import charts, page
from .comparison import ComparedModel
from .sections import Charts, first_ranking

CHOSEN_LAYERS = 6


def layer_names(models: Sequence[ComparedModel], lineage: Lineage) -> list[str] | page.Unavailable:
    """Return the quantizable layers in module order: from a ranking, or else the model's configuration.

    Nothing is downloaded for it.
    """
    ranking = first_ranking(models, lineage)
    if ranking:
        return list(ranking.facts.scores)
    name = ModelName.from_ref(models[0].images.spec.setting.model)
    try:
        return list(find_model(name, fetch=False).layer_shapes)
    except SdquantError as error:
        return page.Unavailable(f"The names of the layers are not available: {error}.")


def _names_in(model: ComparedModel, names: list[str]) -> list[str]:
    """Return the names of a model's layers, with its split shortcut convolutions in two."""
    return split_names(names) if model.state.spec.split_shortcuts else names


def bits_of(model: ComparedModel, names: Sequence[str]) -> dict[str, Bits]:
    """Return the bits of each layer."""
    usual, special = model.state.spec.bits, model.state.facts.bits
    return {name: Bits.of_layer(special.get(name, usual)) for name in names}


# -------------------------------------------------------------------------------- activations


def activations(models: Sequence[ComparedModel], names: list[str], lineage: Lineage) -> Charts:
    """Return charts of ranges and scales by timestep, for layers from both ends of the ranking."""
    if not any(len(model.activations.scales) for model in models):
        return [page.Unavailable("Nothing is calibrated: scales are found at run time, per token and pixel.")]
    shown: Charts = []
    for name, reason in chosen_layers(models, names, lineage).items():
        ranges = [activation_range(model, names, name) for model in models]
        shown.append(page.Chart(reason, charts.activation_range(name, ranges)))
    return shown


def chosen_layers(models: Sequence[ComparedModel], names: list[str], lineage: Lineage) -> dict[str, str]:
    """Return the layers that are charted, and why: the most and least sensitive, else evenly spread.

    Layers fed by text are left out: their inputs do not change with the timestep. So are those that stay in
    floating point in all models with tables.
    """
    charted = _charted_layers(models, names)
    ranking = first_ranking(models, lineage)
    if ranking is None:
        indices = np.linspace(0, len(charted) - 1, min(CHOSEN_LAYERS, len(charted))).round().astype(int)
        chosen = [charted[index] for index in indices]
        return {name: f"layer {names.index(name) + 1} of {len(names)}" for name in chosen}
    ranked = [name for name in ranking.facts.ranking if name in charted]
    half = CHOSEN_LAYERS // 2
    reasons = dict.fromkeys(ranked[-half:], f"among the {half} least sensitive")
    return dict.fromkeys(ranked[:half], f"among the {half} most sensitive") | reasons


def _charted_layers(models: Sequence[ComparedModel], names: list[str]) -> list[str]:
    """Return the layers whose scales change with the timestep in some model."""
    charted = []
    for name in names:
        if not is_text_fed(name) and any(_has_table(model, names, name) for model in models):
            charted.append(name)
    return charted


def _has_table(model: ComparedModel, names: list[str], name: str) -> bool:
    """Return whether a model has calibrated scales of a layer's input."""
    return bool(len(model.activations.scales)) and name not in floating_layers(model.state.spec, names)


def activation_range(model: ComparedModel, names: list[str], name: str) -> charts.ActivationRange | None:
    """Return the range of a layer's input grid, (0 - z) s to (q_max - z) s, and its scale s by timestep.

    None for a model whose scales are found at run time, and for a layer that stays in floating point.
    """
    if not _has_table(model, names, name):
        return None
    floating = floating_layers(model.state.spec, names)
    quantized = [layer for layer in _names_in(model, names) if layer not in floating]
    if name not in quantized:
        name = f"{name}.{PARTS[0]}"  # the first half of a split shortcut convolution
    tables = model.activations
    index = quantized.index(name)
    entries = slice(tables.offsets[index], tables.offsets[index + 1])
    scale = tables.scales[entries].astype(float)
    zero_point = tables.zero_points[entries].astype(float)
    rows = len(scale)
    timesteps = np.arange(rows, 0.0, -1) if tables.timesteps is None else tables.timesteps
    relaxed = relaxed_rows(model.state.spec.relax, rows)
    bits = bits_of(model, [name])[name].activations
    largest = 2 ** bits_of_rows(bits, rows, relaxed).numpy() - 1
    order = np.argsort(timesteps)
    low = np.broadcast_to(-zero_point * scale, len(timesteps))[order]
    high = np.broadcast_to((largest - zero_point) * scale, len(timesteps))[order]
    return charts.ActivationRange(
        timesteps[order].tolist(),
        low.tolist(),
        high.tolist(),
        np.broadcast_to(scale, len(timesteps))[order].tolist(),
    )


# --------------------------------------------------------------------------------------- bits


def bit_map(model: ComparedModel, names: list[str]) -> page.BitMap:
    """Return the bits of every layer of a model, by block in network order."""
    names = _names_in(model, names)
    bits = bits_of(model, names)
    blocks = []
    for block, layers in groupby(charts.network_order(names), charts.block_of):
        squares = [page.LayerBits(name, bits[name].weights, bits[name].activations) for name in layers]
        blocks.append((block, tuple(squares)))
    return page.BitMap(model.label, tuple(blocks))
