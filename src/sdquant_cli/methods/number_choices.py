"""The choices of a calibration about numbers: of a request, or else of its method."""

from collections.abc import Sequence

from ..calibration.recipe import Recipe
from ..manifests import QuantStateSpec
from ..options.requests import CalibrateRequest
from ..options.values import FLOAT, NONE
from ..quant.allocate import ends
from ..types import FLOATING, Activations, Bits, Ranges, Relax, Tables

EDGES_WITHIN_BUDGET = Bits(8, 16)  # in place of floating point: a budget decides the bits of all weights


def activations_of(request: CalibrateRequest, recipe: Recipe) -> Activations:
    """Return the kind of activation scales: of the recipe, unless an option has a use for tables only."""
    wanted = (request.tables, request.ranges, request.zero_points, request.relax not in (None, Relax.NONE))
    needs_tables = any(wanted)
    return request.activations or (Activations.PER_STEP if needs_tables else recipe.activations)


def smoothing_of(request: CalibrateRequest, recipe: Recipe) -> bool | None:
    """Return whether inputs are smoothed; None: they are not, and would not be by default.

    By default the recipe decides, where scales are found at run time.
    """
    usual = recipe.smoothing and activations_of(request, recipe) is Activations.TOKEN
    smoothing = usual if request.smoothing is None else request.smoothing
    return smoothing if smoothing or usual else None


def tables_of(request: CalibrateRequest, recipe: Recipe) -> Tables:
    """Return how many tables of activation scales there are."""
    return request.tables or recipe.tables


def ranges_of(request: CalibrateRequest, recipe: Recipe) -> Ranges:
    """Return how activation scales are found."""
    return request.ranges or recipe.ranges


def split_shortcuts_of(request: CalibrateRequest, recipe: Recipe) -> bool | None:
    """Return whether shortcuts are split; None: they are not, as in the recipe."""
    split = recipe.split_shortcuts if request.split_shortcuts is None else request.split_shortcuts
    return split if split or recipe.split_shortcuts else None


def edges_text_of(request: CalibrateRequest, recipe: Recipe) -> str | None:
    """Return the bits of the first and the last layer: the recipe's, unless the rule of --mixed decides."""
    if request.edges is not None:
        return None if request.edges == NONE else request.edges
    if request.mixed or recipe.edges is None:
        return None
    if recipe.edges != FLOATING:
        return str(recipe.edges)
    return str(EDGES_WITHIN_BUDGET) if request.budget else FLOAT


def edges_of(spec: QuantStateSpec) -> Bits | None:
    """Return the least bits of the first and the last layer; None if there is no least."""
    if spec.edges is None:
        return None
    return FLOATING if spec.edges == FLOAT else Bits.parse(spec.edges)


def floating_layers(spec: QuantStateSpec, layers: Sequence[str]) -> tuple[str, ...]:
    """Return the layers that stay in floating point, of all that can be quantized."""
    return ends(layers) if spec.edges == FLOAT else ()


def relax_of(request: CalibrateRequest, recipe: Recipe) -> Relax | None:
    """Return which steps are relaxed; by default the recipe's, with 8 bits and a row for each step."""
    per_step = activations_of(request, recipe) is Activations.PER_STEP
    has_rows = per_step and tables_of(request, recipe) is not Tables.SINGLE
    suits = has_rows and Bits.parse(request.bits).activations >= 8
    relax = request.relax or (recipe.relax if suits else None)
    return None if relax is Relax.NONE else relax
