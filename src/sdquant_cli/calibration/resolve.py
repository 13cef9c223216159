"""Resolution of a calibration request: the method's own choices wherever the user made none."""

from collections.abc import Callable, Sequence

from ..errors import UsageProblem
from ..manifests import LossSpec, QuantStateSpec, ReconstructSpec, TrainSpec
from ..models.guidance import halves
from ..options.option import Flag, Needs, flags_of
from ..options.requests import CalibrateRequest
from ..options.values import FLOAT, NONE
from ..quant.allocate import ends
from ..quant.grid import fineness
from ..types import FLOATING, Activations, Bits, Dtype, Ranges, Relax, Tables, Train
from .recipe import Recipe
from .recipes.published import METHODS

RANK = 32
FASTEST = 0.1  # of AdaRound's alpha, which goes from about -2 to 2, in an update

_SUPPORTS: dict[Needs, Callable[[Recipe], bool]] = {
    Needs.TRAINING: lambda recipe: recipe.trains,
    Needs.DISTILLATION: lambda recipe: recipe.source is not None,
    Needs.RECONSTRUCTION: lambda recipe: recipe.reconstruct is not None,
    Needs.IMAGES: lambda recipe: recipe.needs_pictures,
}


def recipe_of(request: CalibrateRequest) -> Recipe:
    """Return the method of a request; raises UsageProblem for an option that the method does not support."""
    recipe = METHODS.get(request.method)
    if recipe is None:
        raise UsageProblem(f"--method {request.method}: expected one of {', '.join(METHODS)}")
    options = {name for name in type(request).model_fields if getattr(request, name) not in (None, False)}
    for flag in flags_of(CalibrateRequest.model_fields):
        if flag.name in options:
            _check_support(flag, recipe)
    _check_combinations(request, recipe, options)
    return recipe


def _check_support(flag: Flag, recipe: Recipe) -> None:
    """Raise UsageProblem if a method does not support an option."""
    if flag.option.needs is None or _SUPPORTS[flag.option.needs](recipe):
        return
    others = ", ".join(name for name, other in METHODS.items() if _SUPPORTS[flag.option.needs](other))
    raise UsageProblem(
        f"{flag.spelling}: is not supported by --method {recipe.name} (supported by: {others})"
    )


def _check_combinations(request: CalibrateRequest, recipe: Recipe, options: set[str]) -> None:
    """Raise UsageProblem for an option that has no effect with the others."""
    if request.activations is Activations.TOKEN:
        _check_per_token(request)
    if {"forwards", "iterations"} <= options:
        raise UsageProblem("--forwards: replaces --iterations; leave one of them out")
    if request.relax not in (None, Relax.NONE) and _tables(request, recipe) is Tables.SINGLE:
        raise UsageProblem("--relax: has no effect with --tables single; it widens the rows of single steps")
    if request.edges == FLOAT and request.budget is not None:
        raise UsageProblem(
            f"--edges {FLOAT}: --budget decides the bits of all weights; leave one of them out"
        )
    _check_unused(request, options)


def _check_unused(request: CalibrateRequest, options: set[str]) -> None:
    """Raise UsageProblem for an option that needs another one."""
    if "softmax_bits" in options and request.attention_bits is None:
        raise UsageProblem(f"--softmax-bits {request.softmax_bits}: has no effect without --attention-bits")
    train = request.train or Train.WEIGHTS_AND_STEPS
    if "rank" in options and train is not Train.LOW_RANK:
        raise UsageProblem(f"--rank: has no effect with --train {train}; use it with --train low-rank")
    if "freezing" in options and train is not Train.WEIGHTS_AND_STEPS:
        raise UsageProblem(
            f"--freezing: has no effect with --train {train}; use it with --train weights+steps"
        )


def _check_per_token(request: CalibrateRequest) -> None:
    """Raise UsageProblem for an option of tables where scales are found at run time."""
    relax = None if request.relax is Relax.NONE else request.relax
    for flag, value in (("tables", request.tables), ("ranges", request.ranges), ("relax", relax)):
        if value is not None:
            raise UsageProblem(
                f"--{flag} {value}: has no effect with --activations token, which finds scales at run time; "
                f"use it with --activations per-step"
            )
    if request.zero_points:
        raise UsageProblem(
            "--zero-points: has no effect with --activations token, which finds them at run time; use it "
            "with --activations per-step"
        )


def reads_ranking(request: CalibrateRequest, recipe: Recipe) -> bool:
    """Return whether a ranking of layers has a use: for the bits, or in L_sen."""
    trained = recipe.source is not None and _iterations(request, recipe) > 0
    in_loss = trained and _sensitive_weight(request, recipe) > 0
    return request.mixed or request.budget is not None or in_loss


def check_guidance(request: CalibrateRequest, scale: float) -> None:
    """Raise UsageProblem for a loss on the guided combination at a scale without guidance."""
    if request.guided_weight and halves(scale) == 1:
        raise UsageProblem(
            f"--guided-weight {request.guided_weight:g}: has no effect at guidance scale {scale:g}, which "
            f"turns guidance off; leave the flag out"
        )


def spec_of(
    request: CalibrateRequest,
    recipe: Recipe,
    batch: int,
    *,
    ranked: bool,
    pictures: str | None,
    each: int = 2,
) -> QuantStateSpec:
    """Return the spec of a request for `batch` latents an update.

    Each latent is `each` items of the network. Without a ranking there is no L_sen. `pictures` is the sha256
    of a folder of them.
    """
    iterations = _iterations(request, recipe, each)
    trained = recipe.source is not None and iterations > 0
    per_token = _activations(request, recipe) is Activations.TOKEN
    return QuantStateSpec(
        method=recipe.name,
        bits=request.bits,
        mixed=request.mixed,
        budget=request.budget,
        activations=Activations.TOKEN if per_token else None,
        tables=None if per_token else _tables(request, recipe),
        ranges=None if per_token else _ranges(request, recipe),
        full_range=request.full_range or None,
        group_size=request.group_size,
        branch_rank=request.branch_rank,
        smoothing=_smoothing(request, recipe),
        attention_bits=request.attention_bits,
        softmax_bits=request.softmax_bits or request.attention_bits,
        iterations=iterations,
        batch_size=batch,
        seed=request.seed,
        loss=_losses(request, recipe, ranked=ranked) if trained else None,
        train=_training(request, recipe) if trained else None,
        pictures=pictures,
        reconstruct=_reconstruction(request, recipe, iterations) if iterations > 0 else None,
        split_shortcuts=_split_shortcuts(request, recipe),
        relax=_relax(request, recipe),
        edges=_edges(request, recipe),
        correction=request.correction or None,
    )


def choices_in_words(spec: QuantStateSpec) -> list[str]:
    """Return what decides a state's numbers and training, besides its bits, a phrase each."""
    per_token = spec.activations is Activations.TOKEN
    trained = spec.train.what if spec.train else Train.WEIGHTS_AND_STEPS
    choices = {
        "mixed precision": spec.mixed,
        f"budget {spec.budget}": spec.budget,
        "all codes": spec.full_range,
        "codes symmetric about zero": not spec.full_range,
        f"groups of {spec.group_size}": spec.group_size,
        f"branches of rank {spec.branch_rank}": spec.branch_rank,
        "scales per token": per_token,
        f"{spec.tables} tables, {spec.ranges}": not per_token,
        f"10 bits in the {spec.relax} timesteps": spec.relax,
        "channels scaled": spec.smoothing,
        "shortcuts split": spec.split_shortcuts,
        f"ends at least {spec.edges}": spec.edges and spec.edges != FLOAT,
        "ends in floating point": spec.edges == FLOAT,
        "output corrected": spec.correction,
        f"losses: {losses_in_words(spec)}": True,
        f"trains {trained}": trained is not Train.WEIGHTS_AND_STEPS,
    }
    return [phrase for phrase, holds in choices.items() if holds]


def losses_in_words(spec: QuantStateSpec) -> str:
    """Return the names of the losses that have a weight."""
    if spec.reconstruct:
        return "blocks + layers" if spec.reconstruct.layer_weight else "blocks"
    if spec.loss is None:
        return "none"
    weights = {
        "L_out": 1.0,
        "L_sen": spec.loss.sensitive,
        "blocks": spec.loss.blocks,
        "guided": spec.loss.guided,
    }
    return " + ".join(name for name, weight in weights.items() if weight)


def spec_without_training(bits: str) -> QuantStateSpec:
    """Return the spec of what the default method does at these bits without training."""
    request = CalibrateRequest(bits=bits, iterations=0)
    return spec_of(request, recipe_of(request), 1, ranked=False, pictures=None)


def _iterations(request: CalibrateRequest, recipe: Recipe, each: int = 2) -> int:
    """Return the number of updates, if each latent is `each` items of the network."""
    if request.forwards is not None:
        return max(1, int(request.forwards / _forwards_of_update(request, recipe, each)))
    return recipe.iterations if request.iterations is None else request.iterations


def _forwards_of_update(request: CalibrateRequest, recipe: Recipe, each: int) -> float:
    """Return the cost of an update in whole runs of the network by one item.

    Its runs are forward, backward, which counts two, and the floating-point network's.
    """
    items = each * (request.batch_size or recipe.batch_size)
    spec = _reconstruction(request, recipe)
    if spec is None:
        return items * 4.0
    return items * (3.0 + bool(spec.layer_weight)) * (1 + spec.second)


def _activations(request: CalibrateRequest, recipe: Recipe) -> Activations:
    """Return the kind of activation scales: of the recipe, unless an option has a use for tables only."""
    needs_tables = request.tables or request.ranges or request.relax not in (None, Relax.NONE)
    needs_tables = needs_tables or request.zero_points
    return request.activations or (Activations.PER_STEP if needs_tables else recipe.activations)


def _smoothing(request: CalibrateRequest, recipe: Recipe) -> bool | None:
    """Return whether inputs are smoothed; None: they are not, and would not be by default.

    By default the recipe decides, where scales are found at run time.
    """
    usual = recipe.smoothing and _activations(request, recipe) is Activations.TOKEN
    smoothing = usual if request.smoothing is None else request.smoothing
    return smoothing if smoothing or usual else None


def _tables(request: CalibrateRequest, recipe: Recipe) -> Tables:
    return request.tables or recipe.tables


def _ranges(request: CalibrateRequest, recipe: Recipe) -> Ranges:
    return request.ranges or recipe.ranges


def _split_shortcuts(request: CalibrateRequest, recipe: Recipe) -> bool | None:
    """Return whether shortcuts are split; None: they are not, as in the recipe."""
    split = recipe.split_shortcuts if request.split_shortcuts is None else request.split_shortcuts
    return split if split or recipe.split_shortcuts else None


def _edges(request: CalibrateRequest, recipe: Recipe) -> str | None:
    """Return the bits of the first and the last layer: the recipe's, unless the rule of --mixed decides."""
    if request.edges is not None:
        return None if request.edges == NONE else request.edges
    if request.mixed or recipe.edges is None:
        return None
    finest = Bits.parse(request.bits).weights >= 8 and request.budget is None
    edges = recipe.edges_at_8_bits if finest and recipe.edges_at_8_bits else recipe.edges
    return FLOAT if edges == FLOATING else str(edges)


def edges_of(spec: QuantStateSpec) -> Bits | None:
    """Return the least bits of the first and the last layer; None if there is no least."""
    if spec.edges is None:
        return None
    return FLOATING if spec.edges == FLOAT else Bits.parse(spec.edges)


def floating_layers(spec: QuantStateSpec, layers: Sequence[str]) -> tuple[str, ...]:
    """Return the layers that stay in floating point, of all that can be quantized."""
    return ends(layers) if spec.edges == FLOAT else ()


def _relax(request: CalibrateRequest, recipe: Recipe) -> Relax | None:
    """Return which steps are relaxed; by default the recipe's, with 8 bits and a row for each step."""
    per_step = _activations(request, recipe) is Activations.PER_STEP
    has_rows = per_step and _tables(request, recipe) is not Tables.SINGLE
    suits = has_rows and Bits.parse(request.bits).activations >= 8
    relax = request.relax or (recipe.relax if suits else None)
    return None if relax is Relax.NONE else relax


def _reconstruction(
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


def _sensitive_weight(request: CalibrateRequest, recipe: Recipe) -> float:
    return recipe.sensitive_weight if request.sensitive_weight is None else request.sensitive_weight


def _losses(request: CalibrateRequest, recipe: Recipe, *, ranked: bool) -> LossSpec:
    return LossSpec(
        sensitive=_sensitive_weight(request, recipe) if ranked else 0.0,
        blocks=recipe.block_weight if request.block_weight is None else request.block_weight,
        guided=request.guided_weight or 0.0,
    )


def _weight_rate(request: CalibrateRequest, recipe: Recipe, *, by_layer: bool) -> float:
    """Return the learning rate of weights; those of a finer grid move by as much less.

    By layer, it is that of 4 bits: training goes by the bits of each layer.
    """
    share = 1.0 if by_layer else fineness(Bits.parse(request.bits).weights)
    return request.weight_rate or recipe.weight_rate * share


def _training(request: CalibrateRequest, recipe: Recipe) -> TrainSpec:
    what = request.train or Train.WEIGHTS_AND_STEPS
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
        zero_points=request.zero_points or None,
    )
