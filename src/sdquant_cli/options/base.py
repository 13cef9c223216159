"""Base classes of requests: strict fields, the device, and the setting that images are drawn with."""

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..types import Dtype, Scheduler
from .option import Option, Panel
from .values import Guidance, Pixels, Scale, SchedulerText, Steps


class Fields(BaseModel):
    """Base of requests and of the configuration file: frozen, without unknown fields, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    without_flag: ClassVar[frozenset[str]] = frozenset()  # fields that only a configuration file sets


class Request(Fields):
    """Base of requests that compute."""

    device: Annotated[
        str,
        Option("Device: cpu, cuda, cuda:1, or auto for CUDA where there is a GPU.", Panel.RESOURCES),
    ] = "auto"


MODEL = frozenset(("model", "revision", "variant", "base", "lora", "lora_scale"))
SCHEDULE = frozenset(("scheduler", "steps"))
SIZE = frozenset(("guidance_scale", "height", "width"))


class SettingRequest(Request):
    """Model, schedule and size. None: as the input artifact has it, else the model's default."""

    model: Annotated[
        str | None,
        Option(
            "Pipeline folder in diffusers layout, .safetensors file, Hub id, or shapes: the embedded model "
            "(default).",
            spec="ModelRef.source",
        ),
    ] = None
    revision: Annotated[
        str | None, Option("Branch, tag or commit of a Hub id.", Panel.MODEL, "ModelRef.revision")
    ] = None
    variant: Annotated[
        str | None, Option("Variant of the weight files, such as fp16.", Panel.MODEL, "ModelRef.variant")
    ] = None
    base: Annotated[
        str | None,
        Option("Pipeline that a .safetensors file was fine-tuned from.", Panel.MODEL, "ModelRef.base"),
    ] = None
    lora: Annotated[
        Path | None, Option("LoRA adapter to fuse into the model.", Panel.MODEL, "ModelRef.lora")
    ] = None
    lora_scale: Annotated[
        Scale | None, Option("Scale of --lora. Default: 1.", Panel.MODEL, "ModelRef.lora_scale")
    ] = None
    scheduler: Annotated[
        SchedulerText | None,
        Option(
            f"Scheduler: {', '.join(Scheduler)}, or a scheduler class of diffusers. Default: the model's.",
            Panel.MODEL,
            "Setting.scheduler",
        ),
    ] = None
    steps: Annotated[
        Steps | None,
        Option("Number of inference steps. Default: the model's.", Panel.MODEL, "Setting.steps"),
    ] = None
    guidance_scale: Annotated[
        Guidance | None,
        Option(
            "Guidance scale; 1 or less turns guidance off, unless the model embeds the scale. Default: the "
            "model's.",
            Panel.MODEL,
            "Setting.guidance_scale",
        ),
    ] = None
    height: Annotated[
        Pixels | None,
        Option("Height of images in pixels. Default: the model's.", Panel.MODEL, "Setting.height"),
    ] = None
    width: Annotated[
        Pixels | None,
        Option("Width of images in pixels. Default: the model's.", Panel.MODEL, "Setting.width"),
    ] = None
    dtype: Annotated[
        Dtype | None,
        Option("Number format of the floating-point denoiser. Default: fp32.", Panel.MODEL, "Setting.dtype"),
    ] = None


class RescheduleRequest(Request):
    """The schedule of a folder, if it is not the calibrated one."""

    scheduler: Annotated[
        SchedulerText | None,
        Option("Scheduler of the folder, tables interpolated for it. Default: as calibrated.", Panel.MODEL),
    ] = None
    steps: Annotated[
        Steps | None,
        Option("Number of its steps, tables interpolated for them. Default: as calibrated.", Panel.MODEL),
    ] = None


_MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "is required",
    "model_type": "expected fields and their values",
}


def first_problem(error: ValidationError) -> tuple[list[str], str, str]:
    """Return the names of the first field that is refused, its value if it fits a line, and the reason."""
    first = error.errors()[0]
    names = [part for part in first["loc"] if isinstance(part, str)]  # numbers are positions in a list
    message = _MESSAGES.get(first["type"], first["msg"]).removeprefix("Value error, ")
    value = first.get("input")
    if isinstance(value, int) and abs(value) > 2**64:
        return names, f"(of {value.bit_length()} bits)", message  # may have too many digits to print
    return names, str(value) if isinstance(value, str | int | float | Path) else "", message
