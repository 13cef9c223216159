"""What a user may ask of each stage: the command line's flags and a configuration file's fields.

`None` means: as the input artifact has it, or else the model's default.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

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

BitsText = Annotated[str, AfterValidator(lambda text: str(Bits.parse(text)))]  # as in w4a8
BudgetText = Annotated[str, BeforeValidator(lambda value: str(Budget.parse(str(value))))]  # 4.25 or 3MB
SchedulerText = Annotated[str, AfterValidator(Scheduler.parse)]  # as in euler, or HeunDiscreteScheduler
GateText = Annotated[str, AfterValidator(lambda text: str(Gate.parse(text)))]  # as in psnr>=25


class Request(BaseModel):
    """Base: strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    device: str = "auto"


class SettingRequest(Request):
    """How to draw."""

    model: str | None = None
    revision: str | None = None  # of a Hub id
    variant: str | None = None  # of weight files
    base: str | None = None  # of a single file
    lora: Path | None = None
    lora_scale: float | None = None
    scheduler: SchedulerText | None = None
    steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0)
    height: int | None = Field(default=None, ge=8)
    width: int | None = Field(default=None, ge=8)
    dtype: Dtype | None = None


class SampleRequest(SettingRequest):
    prompts: Path
    per_prompt: int = 1
    select: Select = Select.RANDOM
    select_mean: float | None = Field(default=None, ge=0, le=1)
    select_deviation: float | None = Field(default=None, gt=0)
    select_variety: float | None = Field(default=None, ge=0)
    select_radius: float | None = Field(default=None, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    micro_batch: int = Field(default=8, ge=1)


class PrecalcTimeRequest(SettingRequest):
    pass


class SensitivityRequest(SettingRequest):
    measure: Measure = Measure.PRINTED
    bits: BitsText = "w4a8"
    limit: int | None = Field(default=None, ge=1)  # latents; by default all, or 16 for sqnr
    micro_batch: int = Field(default=8, ge=1)


class CalibrateRequest(SettingRequest):
    """`None`: as the method has it. An option that is set must have a meaning for the method."""

    method: str = "serial-to-parallel"
    bits: BitsText = "w4a8"
    mixed: bool = False
    budget: BudgetText | None = None
    tables: Tables | None = None
    ranges: Ranges | None = None
    relax: Relax | None = None
    split_shortcuts: bool | None = None
    attention_bits: int | None = Field(default=None, ge=2, le=16)
    softmax_bits: int | None = Field(default=None, ge=2, le=16)  # None: as attention_bits
    time_path: TimePath = TimePath.PRECALCULATED
    iterations: int | None = Field(default=None, ge=0)
    forwards: float | None = Field(default=None, gt=0)  # that updates may take, in place of iterations
    batch_size: int | None = Field(default=None, ge=1)
    accumulate: int | None = Field(default=None, ge=1)
    train: Train | None = None
    rank: int | None = Field(default=None, ge=1)
    weight_rate: float | None = Field(default=None, gt=0)
    step_rate: float | None = Field(default=None, gt=0)
    sensitive_weight: float | None = Field(default=None, ge=0)
    block_weight: float | None = Field(default=None, ge=0)
    guided_weight: float | None = Field(default=None, ge=0)
    layer_weight: float | None = Field(default=None, ge=0)
    drop: float | None = Field(default=None, ge=0, le=1)
    cache_memory: float = Field(default=4.0, ge=0)  # GB; what is captured beyond lies on disk
    averaging: float | None = Field(default=None, ge=0, lt=1)
    freezing: float | None = Field(default=None, ge=0, lt=1)
    teacher_dtype: Dtype | None = None
    amp: bool = False
    checkpointing: bool = False
    images: Path | None = None
    correction: bool = False
    seed: int = Field(default=0, ge=0)


class GenerateRequest(SettingRequest):
    state: str | None = None  # which quantizer state; `model` "fp" draws without one
    engine: Engine = Engine.SIMULATED
    step_match: StepMatch | None = None  # None: refuse timesteps that were not calibrated
    prompts: Path | None = None
    seed: int = Field(default=0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    micro_batch: int = Field(default=8, ge=1)
    output: Path | None = None


class ExportRequest(Request):
    output: Path
    state: str | None = None
    format: ExportFormat = ExportFormat.PACKED


class BenchRequest(Request):
    state: str | None = None
    height: int | None = Field(default=None, ge=8)
    width: int | None = Field(default=None, ge=8)
    items: int = Field(default=2, ge=1)
    repeats: int = Field(default=3, ge=1)
    pictures: int = Field(default=1, ge=0)


class DoctorRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    weights_dir: Path | None = None
    download: bool = False


class EvaluateRequest(Request):
    against: str = "fp"
    images: str | None = None
    gate: tuple[GateText, ...] = ()
    require: tuple[str, ...] = ()
    floor: bool = True
    drift: bool = False
    drift_prompts: int = Field(default=16, ge=1)
    summary: Path | None = None  # Markdown is appended to it
    weights_dir: Path | None = None
    download: bool = False


class LeaderboardRequest(SettingRequest):
    methods: tuple[str, ...] = ("all",)
    bits: tuple[BitsText, ...] = ("w8a8", "w4a8")
    prompts: Path  # of the calibration latents
    test_prompts: Path | None = None  # of the pictures; None: the model's own
    limit: int = Field(default=256, ge=1)  # pictures of each row
    seed: int = Field(default=1000, ge=0)  # of the pictures' noise
    iterations: int | None = Field(default=None, ge=0)  # of every method that trains; None: its own
    forwards: float | None = Field(default=None, gt=0)  # of updates, in place of iterations
    weights_dir: Path | None = None
    output: Path = Path("sdquant-leaderboard.html")
    markdown: Path | None = None
    pictures: int = Field(default=12, ge=1)  # prompts that the page shows


class ReportRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    names: tuple[str, ...] = ()  # metrics artifacts
    output: Path = Path("sdquant-report.html")
    pictures: int = Field(default=24, ge=1)
