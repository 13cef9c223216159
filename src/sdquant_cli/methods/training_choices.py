"""The choices of a calibration about training: of a request, or else of its method."""

from ..calibration.recipe import Recipe
from ..errors import UsageProblem
from ..manifests import LossSpec, ReconstructSpec, TrainSpec
from ..options.requests import CalibrateRequest
from ..quant.grid import fineness
from ..types import Activations, Bits, Dtype, Train
from .number_choices import activations_of

RANK = 32
FASTEST = 0.1  # of AdaRound's alpha, which goes from about -2 to 2, in an update


def reconstruction_of(
    request: CalibrateRequest, recipe: Recipe, iterations: int | None = None
) -> ReconstructSpec | None:
    """Return the recipe's reconstruction, with the options of the request in place.

    Its rate is that of the recipe's iterations, or of `iterations` if they are known.
    """
    if recipe.reconstruct is None:
        return None
    rate = recipe.reconstruct.weight_rate
    if recipe.rate_at_8_bits is not None and Bits.parse(request.bits).weights >= 8:
        rate = recipe.rate_at_8_bits
    shorter = recipe.iterations / iterations if iterations else 1.0
    changes: dict[str, float] = {"weight_rate": _rounding_rate(rate, shorter)}
    for name in ("layer_weight", "drop", "weight_rate", "step_rate"):
        value = getattr(request, name)
        if value is not None:
            changes[name] = value
    return recipe.reconstruct.model_copy(update=changes)


def _rounding_rate(rate: float, shorter: float) -> float:
    """Return the rate of AdaRound where iterations are fewer by a factor than those that a rate is for.

    All of them together then move as far: at the same rate most weights could not reach their other
    neighbour. More iterations have the same rate.
    """
    return max(rate, min(rate * shorter, FASTEST))


def sensitive_weight_of(request: CalibrateRequest, recipe: Recipe) -> float:
    """Return the weight of L_sen."""
    return _chosen(request.sensitive_weight, recipe.sensitive_weight)


def losses_of(request: CalibrateRequest, recipe: Recipe, *, ranked: bool, guided: bool) -> LossSpec:
    """Return the weights of the losses; without guidance a method's guided loss is L_out.

    Raises UsageProblem if none has a weight.
    """
    output, guided_weight = recipe.output_weight, recipe.guided_weight
    if not guided:
        output, guided_weight = output + guided_weight, 0.0
    losses = LossSpec(
        output=_chosen(request.output_weight, output),
        sensitive=sensitive_weight_of(request, recipe) if ranked else 0.0,
        blocks=_chosen(request.block_weight, recipe.block_weight),
        guided=_chosen(request.guided_weight, guided_weight),
    )
    if not any((losses.output, losses.sensitive, losses.blocks, losses.guided)):
        raise UsageProblem(f"--method {recipe.name}: no loss has a weight; add --output-weight 1")
    return losses.model_copy(update={"output": None}) if losses.output == output == 1 else losses


def _chosen(asked: float | None, usual: float) -> float:
    return usual if asked is None else asked


def _weight_rate(request: CalibrateRequest, recipe: Recipe, *, by_layer: bool) -> float:
    """Return the learning rate of weights; those of a finer grid move by as much less.

    By layer, it is that of 4 bits: training goes by the bits of each layer.
    """
    rate = recipe.weight_rate
    if trained_of(request, recipe) is Train.LOW_RANK:
        rate = recipe.low_rank_rate or rate
    share = 1.0 if by_layer else fineness(Bits.parse(request.bits).weights)
    return request.weight_rate or rate * share


def trained_of(request: CalibrateRequest, recipe: Recipe) -> Train:
    """Return what is trained of a network that is trained as a whole."""
    return request.train or recipe.train


def _zero_points(request: CalibrateRequest, recipe: Recipe) -> bool | None:
    """Return whether zero-points are trained; None: they are not, and would not be by default.

    By default the recipe decides, where there are tables.
    """
    usual = recipe.zero_points and activations_of(request, recipe) is Activations.PER_STEP
    trained = usual if request.zero_points is None else request.zero_points
    return trained if trained or usual else None


def training_of(request: CalibrateRequest, recipe: Recipe) -> TrainSpec:
    """Return the settings of training as a whole."""
    what = trained_of(request, recipe)
    by_layer = request.budget is not None  # with it few layers have the bits of `--bits`
    return TrainSpec(
        what=what,
        rank=(request.rank or RANK) if what is Train.LOW_RANK else None,
        weight_rate=_weight_rate(request, recipe, by_layer=by_layer),
        rate_by_layer=by_layer or None,
        step_rate=request.step_rate or recipe.step_rate,
        accumulate=request.accumulate or 1,
        averaging=request.averaging or 0.0,
        freezing=request.freezing or 0.0,
        teacher=request.teacher_dtype or Dtype.FP32,
        amp=request.amp or None,
        tf32=request.tf32 or None,
        zero_points=_zero_points(request, recipe),
    )
