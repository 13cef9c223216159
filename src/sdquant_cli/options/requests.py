"""What a user may ask of each stage: the command line's flags and a configuration file's fields.

`None` means: as the input artifact has it, or else the model's default.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError

from ..types import (
    Bits,
    Budget,
    Dtype,
    Engine,
    ExportFormat,
    Gate,
    Measure,
    Ranges,
    Relax,
    Scheduler,
    Select,
    StepMatch,
    Tables,
    TimePath,
    Train,
)


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {str(value).lower()}")
    return value


# Numbers are finite and bounded: what lies beyond is a slip, and would overflow later on.
LARGEST = 2**31 - 1
Whole = Annotated[int, Strict(), Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Strict(), Field(ge=1, le=LARGEST)]
NonNegative = Annotated[int, Strict(), Field(ge=0, le=LARGEST)]
Steps = Annotated[int, Strict(), Field(ge=1, le=100_000)]
Seed = Annotated[int, Strict(), Field(ge=0, le=2**63 - 1)]
Pixels = Annotated[int, Strict(), Field(ge=8, le=2**24)]
BitWidth = Annotated[int, Strict(), Field(ge=2, le=16)]
Scale = Annotated[float, BeforeValidator(_no_switch), Field(ge=-1000, le=1000)]
Guidance = Annotated[float, BeforeValidator(_no_switch), Field(ge=0, le=1000)]
Weight = Annotated[float, BeforeValidator(_no_switch), Field(ge=0, le=1e6)]
Positive = Annotated[float, BeforeValidator(_no_switch), Field(gt=0, le=1e3)]
Cost = Annotated[float, BeforeValidator(_no_switch), Field(gt=0, le=1e15)]
Share = Annotated[float, BeforeValidator(_no_switch), Field(ge=0, le=1)]
Quantile = Annotated[float, BeforeValidator(_no_switch), Field(gt=0, le=1)]
Decay = Annotated[float, BeforeValidator(_no_switch), Field(ge=0, lt=1)]
Switch = Annotated[bool, Strict()]

BitsText = Annotated[str, AfterValidator(lambda text: str(Bits.parse(text)))]  # as in w4a8
BudgetText = Annotated[str, BeforeValidator(lambda value: str(Budget.parse(str(value))))]  # 4.25 or 3MB
ColumnText = Annotated[  # a name, or a number, which YAML may write as such
    str, BeforeValidator(lambda value: str(value) if type(value) is int else value)
]
SchedulerText = Annotated[str, AfterValidator(Scheduler.parse)]  # as in euler, or HeunDiscreteScheduler
GateText = Annotated[str, AfterValidator(lambda text: str(Gate.parse(text)))]  # as in psnr>=25


class Fields(BaseModel):
    """Base: strict about unknown fields, and finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Request(Fields):
    """Base of what computes."""

    device: str = "auto"


_MESSAGES = {
    "extra_forbidden": "there is no such field",
    "missing": "is required",
    "model_type": "expected fields and their values",
}


def first_problem(error: ValidationError) -> tuple[list[str], str, str]:
    """The names of the first field that is refused, the value if it fits a line, and what was expected."""
    first = error.errors()[0]
    names = [part for part in first["loc"] if isinstance(part, str)]  # numbers are places within a list
    message = _MESSAGES.get(first["type"], first["msg"]).removeprefix("Value error, ")
    value = first.get("input")
    if isinstance(value, int) and abs(value) > 2**64:
        return names, f"(of {value.bit_length()} bits)", message  # may have too many digits to print
    return names, str(value) if isinstance(value, str | int | float | Path) else "", message


class SettingRequest(Request):
    """How to draw."""

    model: str | None = None
    revision: str | None = None  # of a Hub id
    variant: str | None = None  # of weight files
    base: str | None = None  # of a single file
    lora: Path | None = None
    lora_scale: Scale | None = None
    scheduler: SchedulerText | None = None
    steps: Steps | None = None
    guidance_scale: Guidance | None = None
    height: Pixels | None = None
    width: Pixels | None = None
    dtype: Dtype | None = None


class SampleRequest(SettingRequest):
    prompts: Path
    column: ColumnText | None = None  # of `prompts`; None: the one of a known name
    shuffle: Seed | None = None  # None: in the file's order
    per_prompt: Whole = 1
    select: Select = Select.RANDOM
    select_mean: Share | None = None
    select_deviation: Positive | None = None
    select_variety: Weight | None = None
    select_radius: Quantile | None = None
    seed: Seed = 0
    limit: Count | None = None
    micro_batch: Count = 8


class PrecalcTimeRequest(SettingRequest):
    pass


class SensitivityRequest(SettingRequest):
    measure: Measure = Measure.PRINTED
    bits: BitsText = "w4a8"
    limit: Count | None = None  # latents; by default all, or 16 for sqnr
    micro_batch: Count = 8


class CalibrateRequest(SettingRequest):
    """`None`: as the method has it. An option that is set must have a meaning for the method."""

    method: str = "serial-to-parallel"
    bits: BitsText = "w4a8"
    mixed: Switch = False
    budget: BudgetText | None = None
    tables: Tables | None = None
    ranges: Ranges | None = None
    relax: Relax | None = None
    split_shortcuts: Switch | None = None
    attention_bits: BitWidth | None = None
    softmax_bits: BitWidth | None = None  # None: as attention_bits
    time_path: TimePath = TimePath.PRECALCULATED
    iterations: NonNegative | None = None
    forwards: Cost | None = None  # that updates may take, in place of iterations
    batch_size: Count | None = None
    accumulate: Count | None = None
    train: Train | None = None
    rank: Count | None = None
    weight_rate: Positive | None = None
    step_rate: Positive | None = None
    sensitive_weight: Weight | None = None
    block_weight: Weight | None = None
    guided_weight: Weight | None = None
    layer_weight: Weight | None = None
    drop: Share | None = None
    cache_memory: Weight = 4.0  # GB; what is captured beyond lies on disk
    averaging: Decay | None = None
    freezing: Decay | None = None
    teacher_dtype: Dtype | None = None
    amp: Switch = False
    checkpointing: Switch = False
    images: Path | None = None
    correction: Switch = False
    seed: Seed = 0


class GenerateRequest(SettingRequest):
    state: str | None = None  # which quantizer state; `model` "fp" draws without one
    engine: Engine = Engine.SIMULATED
    step_match: StepMatch | None = None  # None: refuse timesteps that were not calibrated
    prompts: Path | None = None
    column: ColumnText | None = None
    shuffle: Seed | None = None
    seed: Seed = 0
    limit: Count | None = None
    micro_batch: Count = 8
    output: Path | None = None


class ExportRequest(Request):
    output: Path
    state: str | None = None
    format: ExportFormat = ExportFormat.PACKED


class BenchRequest(Request):
    state: str | None = None
    height: Pixels | None = None
    width: Pixels | None = None
    items: Count = 2
    repeats: Count = 3
    pictures: NonNegative = 1


class DoctorRequest(Fields):
    weights_dir: Path | None = None
    download: Switch = False


class EvaluateRequest(Request):
    against: str = "fp"
    images: str | None = None
    gate: tuple[GateText, ...] = ()
    require: tuple[str, ...] = ()
    floor: Switch = True
    drift: Switch = False
    drift_prompts: Count = 16
    summary: Path | None = None  # Markdown is appended to it
    weights_dir: Path | None = None
    download: Switch = False


class LeaderboardRequest(SettingRequest):
    methods: tuple[str, ...] = ("all",)
    bits: tuple[BitsText, ...] = ("w8a8", "w4a8")
    prompts: Path  # of the calibration latents
    column: ColumnText | None = None  # of `prompts`
    test_prompts: Path | None = None  # of the pictures; None: the model's own
    test_column: ColumnText | None = None  # of `test_prompts`
    shuffle: Seed | None = None  # for both files
    limit: Count = 256  # pictures of each row
    seed: Seed = 1000  # of the pictures' noise
    iterations: NonNegative | None = None  # of every method that trains; None: its own
    forwards: Cost | None = None  # of updates, in place of iterations
    weights_dir: Path | None = None
    output: Path = Path("sdquant-leaderboard.html")
    markdown: Path | None = None
    pictures: Count = 12  # prompts that the page shows


class ReportRequest(Fields):
    names: tuple[str, ...] = ()  # metrics artifacts
    output: Path = Path("sdquant-report.html")
    pictures: Count = 24
