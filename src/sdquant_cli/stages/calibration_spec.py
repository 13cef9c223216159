"""What a calibration request comes to: the method's own choices where the user made none."""

from collections.abc import Callable

from ..errors import UsageProblem
from ..manifests import LossSpec, QuantStateSpec, TrainSpec
from ..methods.published import METHODS
from ..methods.recipe import Recipe
from ..types import Dtype, Train
from .requests import CalibrateRequest

WEIGHT_RATE, STEP_RATE = 2e-4, 1e-3
RANK = 32
BATCH_SIZE = 12  # latents, as in the paper

_OF_TRAINING = (
    "iterations",
    "accumulate",
    "train",
    "rank",
    "weight_rate",
    "step_rate",
    "sensitive_weight",
    "block_weight",
    "guided_weight",
    "averaging",
    "freezing",
    "teacher_dtype",
    "checkpointing",
)


def recipe_of(request: CalibrateRequest) -> Recipe:
    """The method of a request; raises UsageProblem for an option that has no meaning for it."""
    recipe = METHODS.get(request.method)
    if recipe is None:
        raise UsageProblem(f"--method {request.method}: expected one of {', '.join(METHODS)}")
    given = {name for name in type(request).model_fields if getattr(request, name) not in (None, False)}
    for option in _OF_TRAINING:
        if option in given and not recipe.trains:
            _refuse(option, recipe, lambda other: other.trains)
    if request.images is not None and not recipe.needs_pictures:
        _refuse("images", recipe, lambda other: other.needs_pictures)
    train = request.train or Train.WEIGHTS_AND_STEPS
    if "rank" in given and train is not Train.LOW_RANK:
        raise UsageProblem(f"--rank: has no meaning with --train {train}; only low-rank takes it")
    if "freezing" in given and train is not Train.WEIGHTS_AND_STEPS:
        raise UsageProblem(f"--freezing: has no meaning with --train {train}; only weights+steps takes it")
    return recipe


def _refuse(option: str, recipe: Recipe, takes: Callable[[Recipe], bool]) -> None:
    others = ", ".join(name for name, other in METHODS.items() if takes(other))
    flag = option.replace("_", "-")
    raise UsageProblem(f"--{flag}: has no meaning with --method {recipe.name}; taken by {others}")


def reads_ranking(request: CalibrateRequest, recipe: Recipe) -> bool:
    """Whether a ranking of layers has a use: for the bits, or in L_sen."""
    trained, sensitive = _iterations(request, recipe) > 0, _sensitive_weight(request, recipe) > 0
    return request.mixed or request.budget is not None or (trained and sensitive)


def _iterations(request: CalibrateRequest, recipe: Recipe) -> int:
    return recipe.iterations if request.iterations is None else request.iterations


def _sensitive_weight(request: CalibrateRequest, recipe: Recipe) -> float:
    return recipe.sensitive_weight if request.sensitive_weight is None else request.sensitive_weight


def spec_of(
    request: CalibrateRequest, recipe: Recipe, batch: int, *, ranked: bool, pictures: str | None
) -> QuantStateSpec:
    """The spec of a request for `batch` latents an update; without a ranking there is no L_sen."""
    iterations = _iterations(request, recipe)
    trained = recipe.trains and iterations > 0
    return QuantStateSpec(
        method=recipe.name,
        bits=request.bits,
        mixed=request.mixed,
        budget=request.budget,
        tables=request.tables,
        ranges=request.ranges,
        iterations=iterations,
        batch_size=batch,
        seed=request.seed,
        loss=_losses(request, recipe, ranked=ranked) if trained else None,
        train=_training(request) if trained else None,
        pictures=pictures,
    )


def _losses(request: CalibrateRequest, recipe: Recipe, *, ranked: bool) -> LossSpec:
    blocks = recipe.block_weight if request.block_weight is None else request.block_weight
    return LossSpec(
        sensitive=_sensitive_weight(request, recipe) if ranked else 0.0,
        blocks=blocks,
        guided=request.guided_weight or 0.0,
    )


def _training(request: CalibrateRequest) -> TrainSpec:
    what = request.train or Train.WEIGHTS_AND_STEPS
    return TrainSpec(
        what=what,
        rank=(request.rank or RANK) if what is Train.LOW_RANK else None,
        weight_rate=request.weight_rate or WEIGHT_RATE,
        step_rate=request.step_rate or STEP_RATE,
        accumulate=request.accumulate or 1,
        averaging=request.averaging or 0.0,
        freezing=request.freezing or 0.0,
        teacher=request.teacher_dtype or Dtype.FP32,
    )
