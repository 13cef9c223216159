"""`sdquant generate`."""

from pathlib import Path
from typing import Annotated

import typer

from ..types import Engine, StepMatch
from . import options as o


def generate(
    model: Annotated[
        str | None, typer.Option("--model", help="fp: draw with the floating-point model instead.")
    ] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="Quantizer state; the latest by default.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="Prompt file; the embedded model has held-out prompts of its own."),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option("--engine", help="Rounded values in floats, or packed weights as they are shipped."),
    ] = Engine.SIMULATED,
    step_match: Annotated[
        StepMatch | None,
        typer.Option("--step-match", help="Allow other --scheduler and --steps than calibrated."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Folder for PNG files.")] = None,
    scheduler: o.SchedulerOption = None,
    steps: o.StepsOption = None,
    guidance_scale: o.GuidanceOption = None,
    height: o.HeightOption = None,
    width: o.WidthOption = None,
    dtype: o.DtypeOption = None,
    seed: o.SeedOption = 0,
    column: o.ColumnOption = None,
    shuffle: o.ShuffleOption = None,
    limit: o.LimitOption = None,
    micro_batch: o.MicroBatchOption = 8,
    device: o.DeviceOption = "auto",
    store: o.StoreOption = o.DEFAULT_STORE,
    dry_run: o.DryRunOption = False,
    json: o.JsonOption = False,
) -> None:
    """Draw pictures from fixed per-prompt noise, with the quantized or the floating-point model.

    Example: sdquant generate --prompts prompts.txt --output pictures
    """
    from ..options.requests import GenerateRequest
    from ..stages import generate as stage
    from .execute import execute

    execute(stage, GenerateRequest, locals())
