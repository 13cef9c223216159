"""Bits of every layer: those of `--bits`, of the rule of `--mixed`, and of the integer program of `--budget`.

`--mixed` follows any ranking. `--budget` needs the direct measure, since it weighs the noise of the output.
With both, the budget decides the weights' bits and the rule the activations'.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from ..errors import MissingArtifact, UsageProblem
from ..events import Events
from ..manifests import FrontierPoint, QuantStateSpec, SensitivityFacts, SensitivitySpec, Setting
from ..metrics.ratios import decibels
from ..models.counts import LayerCount, layer_counts
from ..models.load import Model
from ..models.shortcuts import values_by_part
from ..options.requests import CalibrateRequest
from ..quant.allocate import (
    WIDTHS,
    Allocation,
    LayerBits,
    allocate,
    average_bits,
    ends,
    mixed_bits,
    noise_by_width,
    smallest_budget,
)
from ..quant.format import PAPER, NumberFormat
from ..quant.relaxing import bits_of_rows, relaxed_rows
from ..types import FLOATING, Bits, Budget, Measure

FRONTIER_PER_BIT = 2  # budgets of the frontier: every half bit


@dataclass(frozen=True)
class Ranking:
    """A sensitivity ranking of a model's layers."""

    spec: SensitivitySpec
    facts: SensitivityFacts
    rounding_error: np.ndarray | None = None  # (layers, widths) |W - Q(W)|^2; of the direct measure


@dataclass(frozen=True)
class Choice:
    """Bits of every layer and, with a budget, its allocation and those of other budgets."""

    bits: dict[str, Bits]
    allocation: FrontierPoint | None = None
    frontier: tuple[FrontierPoint, ...] = ()

    @property
    def quantized(self) -> dict[str, Bits]:
        """The bits of the layers that do not stay in floating point."""
        return {name: bits for name, bits in self.bits.items() if bits != FLOATING}


def check_ranking(request: CalibrateRequest, ranking: SensitivitySpec | None) -> None:
    """Raise MissingArtifact if a request needs a ranking that does not exist."""
    if ranking is None and request.mixed:
        raise MissingArtifact(
            "--mixed needs a sensitivity ranking of this model; make it with `sdquant sensitivity`"
        )
    if request.budget and (ranking is None or ranking.measure is not Measure.SQNR):
        raise MissingArtifact(
            f"--budget {request.budget} needs the direct measure of this model as its latest ranking; "
            f"make it with `sdquant sensitivity --measure {Measure.SQNR}`"
        )


def check_budget(request: CalibrateRequest, model: Model) -> None:
    """Raise UsageProblem for a budget below the smallest possible one, and name that."""
    if request.budget is None:
        return
    budget, parameters = Budget.parse(request.budget), _parameters(model)
    total, smallest = int(parameters.sum()), smallest_budget(parameters) + extra_bits(model, request)
    if budget.bits(total) < smallest:
        average = ceil(100 * smallest / total) / 100
        raise UsageProblem(
            f"--budget {budget}: cannot be met; the smallest that can is {average:g} bits a weight, or "
            f"{-(-smallest // 8)}B"
        )


def check_attention(request: CalibrateRequest, model: Model) -> None:
    """Raise UsageProblem if attention's products are to be rounded in a network that computes others."""
    if request.attention_bits is not None and not model.attention_taps:
        raise UsageProblem(
            f"--attention-bits {request.attention_bits}: {model.family.name} has another attention than the "
            f"UNets of versions 1, 2 and XL; leave the flag out"
        )


def attention_bits(spec: QuantStateSpec, model: Model) -> dict[str, Bits]:
    """Return the bits of the taps at which a spec rounds attention's products; weight bits are 0."""
    if spec.attention_bits is None or spec.softmax_bits is None:
        return {}
    bits = {}
    for tap in model.attention_taps:
        is_softmax = tap.endswith(".probabilities")
        bits[tap] = Bits(0, spec.softmax_bits if is_softmax else spec.attention_bits)
    return bits


def choose_bits(
    request: CalibrateRequest, model: Model, ranking: Ranking | None, edges: Bits | None, events: Events
) -> Choice:
    """Return the bits of all layers, at least `edges` in the first and the last, but for a budget's weights.

    The request's ranking and budget have been checked.
    """
    bits, names = Bits.parse(request.bits), list(model.layer_shapes)
    top, bottom = (ranking.facts.top, ranking.facts.bottom) if ranking and request.mixed else ((), ())
    chosen = mixed_bits(names, bits, top, bottom)
    if edges is not None:
        for name in ends(names):
            chosen[name] = chosen[name].at_least(edges)
    if request.budget is None or ranking is None:
        return Choice(chosen)
    return _within_budget(request, chosen, ranking, model, events)


def _within_budget(
    request: CalibrateRequest, chosen: dict[str, Bits], ranking: Ranking, model: Model, events: Events
) -> Choice:
    """Replace the weight bits of a choice by those that a budget buys besides groups and branches."""
    assert request.budget is not None
    parameters = _parameters(model)
    total, cost = int(parameters.sum()), _cost(ranking, list(chosen))
    codes = Budget.parse(request.budget).bits(total) - extra_bits(model, request)
    best = allocate(cost, parameters, codes)
    steps = range(WIDTHS[0] * FRONTIER_PER_BIT, WIDTHS[-1] * FRONTIER_PER_BIT + 1)
    frontier = []
    with events.task("frontier", len(steps), "budget") as task:
        for step in steps:
            allocation = allocate(cost, parameters, total * step // FRONTIER_PER_BIT)
            frontier.append(_point(allocation, parameters))
            task.advance()
    bits = {}
    for (name, layer), width in zip(chosen.items(), best.widths, strict=True):
        bits[name] = replace(layer, weights=width)
    return Choice(bits, _point(best, parameters), tuple(frontier))


def by_split_layer(choice: Choice, model: Model) -> Choice:
    """Give the two parts of each split shortcut convolution of a model the bits of the whole."""
    return replace(choice, bits=values_by_part(choice.bits, list(model.layer_shapes)))


def mean_bits(
    bits: Mapping[str, Bits], model: Model, setting: Setting, rows: Mapping[str, int], spec: QuantStateSpec
) -> dict[str, float]:
    """Return the mean bits of all layers by named weightings; activations are a mean over rows too.

    `rows` is the number of rows of each quantized layer's activation table.
    """
    relaxed = relaxed_rows(spec.relax, max(rows.values()))
    counts, form = layer_counts(model, setting), NumberFormat.of(spec)
    layers = []
    for name, layer in bits.items():
        of_rows = bits_of_rows(layer.activations, rows.get(name, 1), relaxed)
        layers.append(bits_of_layer(layer, float(of_rows.float().mean()), counts[name], form))
    return average_bits(layers)


def bits_of_layer(bits: Bits, activations: float, count: LayerCount, form: NumberFormat) -> LayerBits:
    """Return the bits of a layer of these counts, whose weight is held in a format if it is quantized.

    `activations` are the bits of its inputs, as a mean over rows.
    """
    shape = count.weight_shape
    if bits == FLOATING:
        form = PAPER
    return LayerBits(
        bits.weights,
        activations,
        shape.numel(),
        count.positions,
        count.inputs,
        form.extra_bits(shape),
        form.branch_weights(shape),
    )


def extra_bits(model: Model, spec: QuantStateSpec | CalibrateRequest) -> int:
    """Return the bits that groups and branches add to all weights of a model."""
    form = NumberFormat(group_size=spec.group_size, branch_rank=spec.branch_rank)
    return sum(form.extra_bits(shape) for shape in model.layer_shapes.values())


def _parameters(model: Model) -> np.ndarray:
    return np.array([shape.numel() for shape in model.layer_shapes.values()], dtype=np.int64)


def _cost(ranking: Ranking, names: list[str]) -> np.ndarray:
    """Return the noise-to-signal ratio (layers, widths) of every layer with its weights rounded."""
    assert ranking.rounding_error is not None
    noise = np.array([ranking.facts.weight_noise[name] for name in names])
    measured = Bits.parse(ranking.spec.bits).weights
    return noise_by_width(noise, ranking.rounding_error, measured)


def _point(allocation: Allocation, parameters: np.ndarray) -> FrontierPoint:
    widths = np.array(allocation.widths)
    size = int(widths @ parameters)
    return FrontierPoint(
        average_bits=size / int(parameters.sum()),
        weight_bytes=-(-size // 8),
        predicted_sqnr=decibels(allocation.noise),
        layers_by_width={b: int((widths == b).sum()) for b in WIDTHS if (widths == b).any()},
    )
