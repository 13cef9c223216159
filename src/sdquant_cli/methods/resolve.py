"""Resolution of a calibration request: the method's own choices wherever the user made none."""

import dataclasses
from collections.abc import Callable

from ..calibration.recipe import Recipe
from ..errors import UsageProblem
from ..manifests import QuantStateSpec, Setting
from ..models.families import Family
from ..models.guidance import halves
from ..options.option import Flag, Needs, flags_of
from ..options.requests import CalibrateRequest
from ..options.values import FLOAT
from ..types import Activations, Relax, Tables, Train
from .number_choices import (
    activations_of,
    edges_text_of,
    ranges_of,
    relax_of,
    smoothing_of,
    split_shortcuts_of,
    tables_of,
)
from .published import METHODS
from .training_choices import losses_of, reconstruction_of, sensitive_weight_of, trained_of, training_of

GUIDED = 2  # items of a latent with guidance

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


def on_family(recipe: Recipe, family: Family) -> Recipe:
    """Return the recipe as it is for a family: of SDXL the first timesteps are relaxed (PCR)."""
    if recipe.relax is Relax.LAST and family.sized:
        return dataclasses.replace(recipe, relax=Relax.FIRST)
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
    if request.relax not in (None, Relax.NONE) and tables_of(request, recipe) is Tables.SINGLE:
        raise UsageProblem("--relax: has no effect with --tables single; it widens the rows of single steps")
    if request.edges == FLOAT and request.budget is not None:
        raise UsageProblem(
            f"--edges {FLOAT}: --budget decides the bits of all weights; leave one of them out"
        )
    _check_unused(request, recipe, options)


def _check_unused(request: CalibrateRequest, recipe: Recipe, options: set[str]) -> None:
    """Raise UsageProblem for an option that needs another one."""
    if "softmax_bits" in options and request.attention_bits is None:
        raise UsageProblem(f"--softmax-bits {request.softmax_bits}: has no effect without --attention-bits")
    train = trained_of(request, recipe)
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
    in_loss = trained and sensitive_weight_of(request, recipe) > 0
    return request.mixed or request.budget is not None or in_loss


def check_guidance(request: CalibrateRequest, setting: Setting) -> None:
    """Raise UsageProblem for a loss on the guided combination where nothing is combined."""
    if not request.guided_weight or halves(setting.guidance_scale) == 2:
        return
    reason = f"at guidance scale {setting.guidance_scale:g}, which turns guidance off"
    if setting.embedded_guidance is not None:
        reason = "with a model that embeds its guidance scale"
    raise UsageProblem(
        f"--guided-weight {request.guided_weight:g}: has no effect {reason}; leave the flag out"
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
    per_token = activations_of(request, recipe) is Activations.TOKEN
    return QuantStateSpec(
        method=recipe.name,
        bits=request.bits,
        mixed=request.mixed,
        budget=request.budget,
        activations=Activations.TOKEN if per_token else None,
        tables=None if per_token else tables_of(request, recipe),
        ranges=None if per_token else ranges_of(request, recipe),
        full_range=request.full_range or None,
        group_size=request.group_size,
        branch_rank=request.branch_rank,
        smoothing=smoothing_of(request, recipe),
        attention_bits=request.attention_bits,
        softmax_bits=request.softmax_bits or request.attention_bits,
        iterations=iterations,
        batch_size=batch,
        seed=request.seed,
        loss=losses_of(request, recipe, ranked=ranked, guided=each == GUIDED) if trained else None,
        train=training_of(request, recipe) if trained else None,
        pictures=pictures,
        reconstruct=reconstruction_of(request, recipe, iterations) if iterations > 0 else None,
        split_shortcuts=split_shortcuts_of(request, recipe),
        relax=relax_of(request, recipe),
        edges=edges_text_of(request, recipe),
        correction=request.correction or None,
    )


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
    spec = reconstruction_of(request, recipe)
    if spec is None:
        return items * 4.0
    return items * (3.0 + bool(spec.layer_weight)) * (1 + spec.second)
