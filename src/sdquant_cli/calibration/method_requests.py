"""The requests of all stages that run one published method at one number of bits."""

import dataclasses
from dataclasses import dataclass

from ..errors import UsageProblem
from ..options.requests import (
    CalibrateRequest,
    EvaluateRequest,
    GenerateRequest,
    LeaderboardRequest,
    SampleRequest,
    SensitivityRequest,
    SettingRequest,
)
from .recipe import Recipe
from .recipes.published import METHODS
from .resolve import reads_ranking, recipe_of

ALL = "all"
RANKED_LATENTS = 256  # that a sensitivity ranking is measured on


@dataclass(frozen=True)
class MethodRequests:
    """The request of each stage, in order."""

    sample: SampleRequest
    sensitivity: SensitivityRequest | None  # None: the method does not use a ranking
    calibrate: CalibrateRequest
    generate: GenerateRequest  # without the state
    evaluate: EvaluateRequest  # without the images

    @property
    def name(self) -> str:
        """Method and bits, as in "rtn w4a8"."""
        return f"{self.calibrate.method} {self.calibrate.bits}"

    @property
    def stages(self) -> list[str]:
        """The stages that run, in order."""
        return [stage.name for stage in dataclasses.fields(self) if getattr(self, stage.name)]


def method_requests(request: LeaderboardRequest, steps: int) -> list[MethodRequests]:
    """Return the requests of a leaderboard's rows, by bits, then by method, without repeats.

    `steps` are those of the setting. Raises UsageProblem for an unknown method, or options that it refuses.
    """
    recipes = _recipes(request.methods)
    rows = []
    for bits in dict.fromkeys(request.bits):
        for recipe in recipes:
            rows.append(_requests(request, recipe, bits, steps))
    return rows


def _recipes(names: tuple[str, ...]) -> list[Recipe]:
    if names == (ALL,):
        return list(METHODS.values())
    if unknown := [name for name in names if name not in METHODS]:
        raise UsageProblem(f"--methods {', '.join(unknown)}: expected {ALL} or some of {', '.join(METHODS)}")
    return [METHODS[name] for name in dict.fromkeys(names)]


def _requests(request: LeaderboardRequest, recipe: Recipe, bits: str, steps: int) -> MethodRequests:
    device = request.device
    calibrate = CalibrateRequest(
        method=recipe.name,
        bits=bits,
        mixed=recipe.mixed,
        iterations=request.iterations if recipe.trains else None,
        forwards=request.forwards if recipe.trains else None,
        device=device,
    )
    recipe_of(calibrate)  # raises what the row would fail on
    ranking = SensitivityRequest(bits=bits, limit=RANKED_LATENTS, device=device)
    return MethodRequests(
        sample=_sample_request(request, recipe, steps),
        sensitivity=ranking if reads_ranking(calibrate, recipe) else None,
        calibrate=calibrate,
        generate=GenerateRequest(
            prompts=request.test_prompts,
            column=request.test_column,
            shuffle=request.shuffle,
            limit=request.limit,
            seed=request.seed,
            device=device,
        ),
        evaluate=EvaluateRequest(weights_dir=request.weights_dir, device=device),
    )


def _sample_request(request: LeaderboardRequest, recipe: Recipe, steps: int) -> SampleRequest:
    """Return the method's choice of latents from the leaderboard's prompts and setting."""
    data = dataclasses.asdict(recipe.data)
    data |= {"limit": data.pop("prompts"), "per_prompt": min(recipe.data.per_prompt, steps)}
    setting = {name: getattr(request, name) for name in SettingRequest.model_fields}
    return SampleRequest(
        prompts=request.prompts, column=request.column, shuffle=request.shuffle, **data, **setting
    )
