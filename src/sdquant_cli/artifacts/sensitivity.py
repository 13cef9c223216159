"""Sensitivity: a ranking of all quantizable layers, with the numbers it follows from."""

from ..calibration.bit_allocation import Ranking
from ..manifests import SensitivityFacts, SensitivitySpec
from ..quant.allocate import WIDTHS
from ..store import ArraySpec, Artifact
from ..types import Kind, Measure
from .latents import Latents
from .workspace import Workspace

BATCHES_PER_UNIT = 8
LAYERS_PER_UNIT = 8


class Sensitivity(Artifact[SensitivitySpec, SensitivityFacts]):
    """A stored sensitivity ranking."""

    KIND = Kind.SENSITIVITY

    def ranking(self, *, with_errors: bool = False) -> Ranking:
        """Return the ranking; its rounding errors are stored by the direct measure alone."""
        errors = self.read("rounding_error") if with_errors else None
        return Ranking(self.spec, self.facts, errors)


def latest_of_model(workspace: Workspace, latents: Latents) -> Sensitivity | None:
    """Return the latest ranking; None, with a warning, if it ranks another model than that of the latents."""
    ranking = workspace.latest(Sensitivity)
    if ranking is None:
        return None
    ranked = workspace.input(Latents, ranking, "latents")
    if ranked.spec.setting.model.digest == latents.spec.setting.model.digest:
        return ranking
    workspace.events.warn(
        f"{ranking.name} was computed for a different model and is ignored; run `sdquant sensitivity`"
    )
    return None


def layout(spec: SensitivitySpec, layers: int, halves: int) -> tuple[dict[str, ArraySpec], int]:
    """Return the arrays of a ranking of so many layers, and the number of units.

    A latent is `halves` items.
    """
    if spec.measure is Measure.PUBLISHED:
        return {"position": ArraySpec((layers,), "int64", ("layer",))}, 1
    if spec.measure is Measure.SQNR:
        return _one_layer_at_a_time(layers, halves * spec.latents)
    latents = spec.micro_batch * BATCHES_PER_UNIT
    dims = ("latent", "without_and_with_prompt" if halves == 2 else "with_prompt", "layer")
    array = ArraySpec((spec.latents, halves, layers), "float64", dims, latents, latents)
    return {"first_order": array}, -(-spec.latents // latents)


def _one_layer_at_a_time(layers: int, items: int) -> tuple[dict[str, ArraySpec], int]:
    by_item, by_width = ("layer", "item"), ("layer", "width")
    unit = (LAYERS_PER_UNIT, LAYERS_PER_UNIT)
    arrays = {
        "signal": ArraySpec((items,), "float64", ("item",)),  # all of it in the first unit
        "noise": ArraySpec((layers, items), "float64", by_item, *unit),
        "weight_noise": ArraySpec((layers, items), "float64", by_item, *unit),
        "rounding_error": ArraySpec((layers, len(WIDTHS)), "float64", by_width, *unit),
    }
    return arrays, -(-layers // LAYERS_PER_UNIT)
