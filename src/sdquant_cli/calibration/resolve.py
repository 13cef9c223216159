"""What a calibration request comes to: the method's own choices where the user made none."""

from collections.abc import Callable

from ..errors import UsageProblem
from ..manifests import LossSpec, QuantStateSpec, ReconstructSpec, TrainSpec
from ..models.guidance import halves
from ..options.option import Flag, Needs, flags_of
from ..options.requests import CalibrateRequest
from ..quant.grid import Grid
from ..types import Bits, Dtype, Relax, Tables, Train
from .recipe import Recipe
from .recipes.published import METHODS

RANK = 32

_SUPPORTS: dict[Needs, Callable[[Recipe], bool]] = {
    Needs.TRAINING: lambda recipe: recipe.trains,
    Needs.DISTILLATION: lambda recipe: recipe.source is not None,
    Needs.RECONSTRUCTION: lambda recipe: recipe.reconstruct is not None,
    Needs.IMAGES: lambda recipe: recipe.needs_pictures,
}


def recipe_of(request: CalibrateRequest) -> Recipe:
    """The method of a request; raises UsageProblem for an option that has no meaning for it."""
    recipe = METHODS.get(request.method)
    if recipe is None:
        raise UsageProblem(f"--method {request.method}: expected one of {', '.join(METHODS)}")
    given = {name for name in type(request).model_fields if getattr(request, name) not in (None, False)}
    for flag in flags_of(CalibrateRequest.model_fields):
        needs = flag.option.needs
        if needs is not None and flag.name in given and not _SUPPORTS[needs](recipe):
            _refuse(flag, recipe, _SUPPORTS[needs])
    _check_combinations(request, recipe, given)
    return recipe


def _check_combinations(request: CalibrateRequest, recipe: Recipe, given: set[str]) -> None:
    """Raise UsageProblem for an option that has no meaning beside the others."""
    if request.relax not in (None, Relax.NONE) and _tables(request, recipe) is Tables.SINGLE:
        raise UsageProblem("--relax: has no meaning with --tables single; a relaxed step has its own row")
    if "softmax_bits" in given and request.attention_bits is None:
        raise UsageProblem(f"--softmax-bits {request.softmax_bits}: has no meaning without --attention-bits")
    if {"forwards", "iterations"} <= given:
        raise UsageProblem("--forwards: stands in place of --iterations; leave one of them out")
    train = request.train or Train.WEIGHTS_AND_STEPS
    if "rank" in given and train is not Train.LOW_RANK:
        raise UsageProblem(f"--rank: has no meaning with --train {train}; only low-rank takes it")
    if "freezing" in given and train is not Train.WEIGHTS_AND_STEPS:
        raise UsageProblem(f"--freezing: has no meaning with --train {train}; only weights+steps takes it")


def _refuse(flag: Flag, recipe: Recipe, supports: Callable[[Recipe], bool]) -> None:
    others = ", ".join(name for name, other in METHODS.items() if supports(other))
    raise UsageProblem(
        f"{flag.spelling}: is not supported by --method {recipe.name} (supported by: {others})"
    )


def reads_ranking(request: CalibrateRequest, recipe: Recipe) -> bool:
    """Whether a ranking of layers has a use: for the bits, or in L_sen."""
    trained = recipe.source is not None and _iterations(request, recipe) > 0
    in_loss = trained and _sensitive_weight(request, recipe) > 0
    return request.mixed or request.budget is not None or in_loss


def check_guidance(request: CalibrateRequest, scale: float) -> None:
    """Raise UsageProblem for a loss on a guided combination that is not made."""
    if request.guided_weight and halves(scale) == 1:
        raise UsageProblem(
            f"--guided-weight {request.guided_weight:g}: has no meaning at guidance scale {scale:g}, where "
            f"there is no guidance; leave the flag out"
        )


def _iterations(request: CalibrateRequest, recipe: Recipe, each: int = 2) -> int:
    """Updates, where each latent is so many items of the network."""
    if request.forwards is not None:
        return max(1, int(request.forwards / _forwards_of_update(request, recipe, each)))
    return recipe.iterations if request.iterations is None else request.iterations


def _forwards_of_update(request: CalibrateRequest, recipe: Recipe, each: int) -> float:
    """Runs of the whole network by one item: forward, backward as two, and the floating-point network's."""
    items = each * (request.batch_size or recipe.batch_size)
    spec = _reconstruction(request, recipe)
    if spec is None:
        return items * 4.0
    return items * (3.0 + bool(spec.layer_weight)) * (1 + spec.second)


def _sensitive_weight(request: CalibrateRequest, recipe: Recipe) -> float:
    return recipe.sensitive_weight if request.sensitive_weight is None else request.sensitive_weight


def spec_of(
    request: CalibrateRequest,
    recipe: Recipe,
    batch: int,
    *,
    ranked: bool,
    pictures: str | None,
    each: int = 2,
) -> QuantStateSpec:
    """The spec of a request for `batch` latents an update; without a ranking there is no L_sen.

    `each`: items of the network that a latent is.
    """
    iterations = _iterations(request, recipe, each)
    trained = recipe.source is not None and iterations > 0
    split = recipe.split_shortcuts if request.split_shortcuts is None else request.split_shortcuts
    return QuantStateSpec(
        method=recipe.name,
        bits=request.bits,
        mixed=request.mixed,
        budget=request.budget,
        tables=_tables(request, recipe),
        ranges=request.ranges or recipe.ranges,
        attention_bits=request.attention_bits,
        softmax_bits=request.softmax_bits or request.attention_bits,
        iterations=iterations,
        batch_size=batch,
        seed=request.seed,
        loss=_losses(request, recipe, ranked=ranked) if trained else None,
        train=_training(request, recipe) if trained else None,
        pictures=pictures,
        reconstruct=_reconstruction(request, recipe) if iterations > 0 else None,
        split_shortcuts=split if split or recipe.split_shortcuts else None,
        relax=_relax(request, recipe),
        edges=str(recipe.edges) if recipe.edges and not (request.mixed or request.budget) else None,
        correction=request.correction or None,
    )


def _tables(request: CalibrateRequest, recipe: Recipe) -> Tables:
    return request.tables or recipe.tables


def _relax(request: CalibrateRequest, recipe: Recipe) -> Relax | None:
    """Where nothing is said, the recipe's: it is of 8 bits, and of steps that have rows of their own."""
    has_rows = _tables(request, recipe) is not Tables.SINGLE
    suits = has_rows and Bits.parse(request.bits).activations >= 8
    relax = request.relax or (recipe.relax if suits else None)
    return None if relax is Relax.NONE else relax


def _reconstruction(request: CalibrateRequest, recipe: Recipe) -> ReconstructSpec | None:
    """The recipe's, but for what the request says."""
    if recipe.reconstruct is None:
        return None
    names = ("layer_weight", "drop", "weight_rate", "step_rate")
    told = {name: value for name in names if (value := getattr(request, name)) is not None}
    return recipe.reconstruct.model_copy(update=told)


def _losses(request: CalibrateRequest, recipe: Recipe, *, ranked: bool) -> LossSpec:
    blocks = recipe.block_weight if request.block_weight is None else request.block_weight
    return LossSpec(
        sensitive=_sensitive_weight(request, recipe) if ranked else 0.0,
        blocks=blocks,
        guided=request.guided_weight or 0.0,
    )


def _fineness(bits: Bits) -> float:
    """Step size of the weights' grid over that of 4 bits, at most 1: smaller steps, smaller moves."""
    return min(1.0, Grid(4, signed=True).high / Grid(bits.weights, signed=True).high)


def _training(request: CalibrateRequest, recipe: Recipe) -> TrainSpec:
    what = request.train or Train.WEIGHTS_AND_STEPS
    return TrainSpec(
        what=what,
        rank=(request.rank or RANK) if what is Train.LOW_RANK else None,
        weight_rate=request.weight_rate or recipe.weight_rate * _fineness(Bits.parse(request.bits)),
        step_rate=request.step_rate or recipe.step_rate,
        accumulate=request.accumulate or 1,
        averaging=request.averaging or 0.0,
        freezing=request.freezing or 0.0,
        teacher=request.teacher_dtype or Dtype.FP32,
        amp=request.amp or None,
    )
