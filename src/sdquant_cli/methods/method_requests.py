"""The requests of all stages that run one published method at one number of bits.

A leaderboard's options about numbers apply to every row; those after a method's name apply to its row
alone. A row whose method does not support a shared option is not run; the others are.
"""

import dataclasses
import shlex
from dataclasses import dataclass

from pydantic import ValidationError

from ..calibration.recipe import Recipe
from ..errors import UsageProblem
from ..options.base import first_problem
from ..options.calibration import NumberOptions
from ..options.option import flags_of
from ..options.requests import (
    CalibrateRequest,
    EvaluateRequest,
    GenerateRequest,
    LeaderboardRequest,
    SampleRequest,
    SensitivityRequest,
    SettingRequest,
)
from ..types import Engine, Measure
from .published import METHODS
from .resolve import reads_ranking, recipe_of

ALL = "all"
RANKED_LATENTS = 256  # that a sensitivity ranking is measured on


@dataclass(frozen=True)
class MethodRequests:
    """The request of each stage, in order."""

    label: str  # the method and its own options, as they are typed
    sample: SampleRequest
    sensitivity: SensitivityRequest | None  # None: the method does not use a ranking
    calibrate: CalibrateRequest
    generate: GenerateRequest  # without the state
    evaluate: EvaluateRequest  # without the images
    refused: str | None = None  # why the method does not support the options of all rows

    @property
    def name(self) -> str:
        """Label and bits, as in "rtn w4a8"."""
        return f"{self.label} {self.calibrate.bits}"

    def of_calibration(self, seed: int) -> "MethodRequests":
        """Return the requests of a calibration; `seed` is added to the seeds of latents and of training."""
        return dataclasses.replace(
            self,
            sample=self.sample.model_copy(update={"seed": self.sample.seed + seed}),
            calibrate=self.calibrate.model_copy(update={"seed": self.calibrate.seed + seed}),
        )

    @property
    def stages(self) -> list[str]:
        """The stages that run, in order."""
        stages = ("sample", "sensitivity", "calibrate", "generate", "evaluate")
        return [stage for stage in stages if getattr(self, stage)]


@dataclass(frozen=True)
class _Row:
    """A method and the options of its own row."""

    label: str
    recipe: Recipe
    options: dict[str, object]


def method_requests(request: LeaderboardRequest, steps: int) -> list[MethodRequests]:
    """Return the requests of a leaderboard's rows, by bits, then by method, without repeats.

    `steps` are those of the setting. Raises UsageProblem for an unknown method, or for options of a row's own
    that it refuses.
    """
    if None not in (request.iterations, request.forwards):
        raise UsageProblem("--forwards: replaces --iterations; leave one of them out")
    rows = []
    for bits in dict.fromkeys(request.bits):
        for row in _rows(request.methods):
            rows.append(_requests(request, row, bits, steps))
    return rows


def _rows(texts: tuple[str, ...]) -> list[_Row]:
    words = {text: _split(text) for text in (METHODS if texts == (ALL,) else texts)}
    if unknown := [text for text, parts in words.items() if not parts or parts[0] not in METHODS]:
        raise UsageProblem(f"--methods {', '.join(unknown)}: expected {ALL} or some of {', '.join(METHODS)}")
    return [_Row(text, METHODS[parts[0]], _row_options(text, parts[1:])) for text, parts in words.items()]


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageProblem(f"--methods {text}: {error}") from None


def _row_options(text: str, words: list[str]) -> dict[str, object]:
    """Return the fields of a CalibrateRequest that options after a method's name set."""
    without = CalibrateRequest.without_flag | {"method", "bits"}
    flags = {flag.spelling: flag for flag in flags_of(CalibrateRequest.model_fields, without)}
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        flag = flags.get(word) or flags.get(word.replace("--no-", "--", 1))
        if flag is None or (flag.spelling != word and not flag.option.negative):
            raise UsageProblem(f"--methods {text}: {word} is no option of calibrate for a row")
        if flag.is_switch:
            options[flag.name] = str(flag.spelling == word)
        elif (value := next(rest, None)) is not None:
            options[flag.name] = value
        else:
            raise UsageProblem(f"--methods {text}: {word} needs a value")
    try:
        return CalibrateRequest.model_validate_strings(options).model_dump(include=set(options))
    except ValidationError as error:
        (name, *_), value, reason = first_problem(error)
        raise UsageProblem(f"--methods {text}: --{name.replace('_', '-')} {value}: {reason}") from None


def _requests(request: LeaderboardRequest, row: _Row, bits: str, steps: int) -> MethodRequests:
    device, recipe = request.device, row.recipe
    shared = _shared_options(request, recipe)
    row_options = {"method": recipe.name, "bits": bits, **row.options}
    calibrate = CalibrateRequest.model_validate({**shared, **row_options, "device": device})
    refused = None
    try:
        recipe_of(calibrate)
    except UsageProblem as error:
        recipe_of(CalibrateRequest.model_validate(row_options))  # raises what the row itself would fail on
        refused = str(error)
    ranking = SensitivityRequest(bits=bits, limit=RANKED_LATENTS, device=device)
    if calibrate.budget:
        ranking = SensitivityRequest(measure=Measure.SQNR, bits=bits, device=device)
    return MethodRequests(
        label=row.label,
        sample=_sample_request(request, recipe, steps),
        sensitivity=ranking if refused is None and reads_ranking(calibrate, recipe) else None,
        calibrate=calibrate,
        generate=GenerateRequest(
            prompts=request.test_prompts,
            column=request.test_column,
            shuffle=request.shuffle,
            limit=request.limit,
            seed=request.seed,
            engine=Engine.SIMULATED,  # the specification, the same on every machine
            device=device,
        ),
        evaluate=EvaluateRequest(weights_dir=request.weights_dir, device=device),
        refused=refused,
    )


def _shared_options(request: LeaderboardRequest, recipe: Recipe) -> dict[str, object]:
    """Return the options of all rows, as fields of a CalibrateRequest; iterations if the method trains."""
    options: dict[str, object] = {"mixed": recipe.mixed if request.mixed is None else request.mixed}
    trained = ("iterations", "forwards") if recipe.trains else ()
    for name in (*NumberOptions.model_fields, "budget", *trained):
        options[name] = getattr(request, name)
    return options


def _sample_request(request: LeaderboardRequest, recipe: Recipe, steps: int) -> SampleRequest:
    """Return the method's choice of latents from the leaderboard's prompts and setting."""
    data = dataclasses.asdict(recipe.data)
    data |= {"limit": data.pop("prompts"), "per_prompt": min(recipe.data.per_prompt, steps)}
    setting = {name: getattr(request, name) for name in SettingRequest.model_fields}
    return SampleRequest(
        prompts=request.prompts, column=request.column, shuffle=request.shuffle, **data, **setting
    )
