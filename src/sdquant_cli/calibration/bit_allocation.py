"""Which bits every layer gets: those of `--bits`, of `--mixed`'s rule, and of `--budget`'s integer program.

`--mixed` follows any ranking. `--budget` needs the direct measure: what it weighs is the output's noise.
With both, the budget decides the weights' bits and the rule the activations'.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..errors import MissingArtifact, UsageProblem
from ..events import Events
from ..manifests import FrontierPoint, QuantStateSpec
from ..metrics.ratios import decibels
from ..models.load import Model
from ..options.requests import CalibrateRequest
from ..quant.allocate import WIDTHS, Allocation, allocate, mixed_bits, noise_by_width, smallest_budget
from ..store import Artifact
from ..types import Bits, Budget, Measure

FRONTIER_PER_BIT = 2  # budgets of the frontier: every half bit


@dataclass(frozen=True)
class Choice:
    """Bits of every layer and, with a budget, what it buys and what others would have."""

    bits: dict[str, Bits]
    allocation: FrontierPoint | None = None
    frontier: tuple[FrontierPoint, ...] = ()


def check_ranking(request: CalibrateRequest, ranking: Artifact | None) -> None:
    """Raise MissingArtifact where a request needs a ranking that is not there."""
    if ranking is None and request.mixed:
        raise MissingArtifact(
            "--mixed needs a sensitivity ranking of this model; make it with `sdquant sensitivity`"
        )
    if request.budget and (ranking is None or ranking.spec.measure is not Measure.SQNR):
        raise MissingArtifact(
            f"--budget {request.budget} needs the direct measure of this model as its latest ranking; "
            f"make it with `sdquant sensitivity --measure {Measure.SQNR}`"
        )


def check_budget(request: CalibrateRequest, model: Model) -> None:
    """Raise UsageProblem, with the smallest budget that can be met, for one that cannot."""
    if request.budget is None:
        return
    budget, parameters = Budget.parse(request.budget), _parameters(model)
    smallest = smallest_budget(parameters)
    if budget.bits(int(parameters.sum())) < smallest:
        raise UsageProblem(
            f"--budget {budget}: cannot be met; the smallest that can is {WIDTHS[0]} bits a weight, "
            f"or {-(-smallest // 8)}B"
        )


def check_attention(request: CalibrateRequest, model: Model) -> None:
    """Raise UsageProblem where attention's products are to be rounded in a network that computes others."""
    if request.attention_bits is not None and not model.attention_taps:
        raise UsageProblem(
            f"--attention-bits {request.attention_bits}: {model.family.name} has another attention than the "
            f"UNets of versions 1, 2 and XL; leave the flag out"
        )


def attention_bits(spec: QuantStateSpec, model: Model) -> dict[str, Bits]:
    """Bits of the places where a spec rounds attention's products: of weights 0, since there are none."""
    if spec.attention_bits is None or spec.softmax_bits is None:
        return {}
    q, p = Bits(0, spec.attention_bits), Bits(0, spec.softmax_bits)
    return {place: p if place.endswith(".probabilities") else q for place in model.attention_taps}


def choose_bits(
    request: CalibrateRequest, model: Model, ranking: Artifact | None, edges: Bits | None, events: Events
) -> Choice:
    """The bits of a request whose ranking and budget have been checked, at least `edges` at both ends."""
    bits, names = Bits.parse(request.bits), list(model.layer_shapes)
    ends = (ranking.facts.top, ranking.facts.bottom) if ranking and request.mixed else ((), ())
    chosen = mixed_bits(names, bits, *ends)
    if edges is not None:
        for name in (names[0], names[-1]):
            chosen[name] = chosen[name].at_least(edges)
    if request.budget is None or ranking is None:
        return Choice(chosen)
    parameters = _parameters(model)
    total, cost = int(parameters.sum()), _cost(ranking, names)
    best = allocate(cost, parameters, Budget.parse(request.budget).bits(total))
    halves = range(WIDTHS[0] * FRONTIER_PER_BIT, WIDTHS[-1] * FRONTIER_PER_BIT + 1)
    budgets = [total * k // FRONTIER_PER_BIT for k in halves]
    with events.task("frontier", len(budgets), "budget") as task:
        frontier = []
        for budget in budgets:
            frontier.append(_point(allocate(cost, parameters, budget), parameters))
            task.advance()
    widths = zip(chosen.items(), best.widths, strict=True)
    return Choice(
        {name: replace(layer, weights=width) for (name, layer), width in widths},
        _point(best, parameters),
        tuple(frontier),
    )


def _parameters(model: Model) -> np.ndarray:
    return np.array([shape.numel() for shape in model.layer_shapes.values()], dtype=np.int64)


def _cost(ranking: Artifact, names: list[str]) -> np.ndarray:
    """Noise to signal of every layer at every width (layers, widths), its weights alone rounded."""
    noise = np.array([ranking.facts.weight_noise[name] for name in names])
    measured = Bits.parse(ranking.spec.bits).weights
    return noise_by_width(noise, ranking.read("rounding_error"), measured)


def _point(allocation: Allocation, parameters: np.ndarray) -> FrontierPoint:
    widths = np.array(allocation.widths)
    size = int(widths @ parameters)
    return FrontierPoint(
        average_bits=size / int(parameters.sum()),
        weight_bytes=-(-size // 8),
        predicted_sqnr=decibels(allocation.noise),
        layers_by_width={b: int((widths == b).sum()) for b in WIDTHS if (widths == b).any()},
    )
