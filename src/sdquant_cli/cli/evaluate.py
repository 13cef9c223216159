"""`sdquant evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def evaluate(
    against: Annotated[
        str, typer.Option("--against", help="What to compare with: fp, or an images artifact.")
    ] = "fp",
    images: Annotated[
        str | None, typer.Option("--images", help="Images artifact; the latest quantized by default.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="A bound such as psnr>=25; exit 4 if not met. Repeatable."),
    ] = None,
    require: Annotated[
        str | None,
        typer.Option("--require", help="Metrics that must be computed, as in lpips,fid; exit 5 if not."),
    ] = None,
    floor: Annotated[
        bool, typer.Option("--floor/--no-floor", help="Measure floating-point pictures of other noise too.")
    ] = True,
    drift: Annotated[
        bool, typer.Option("--drift", help="Measure at which call the trajectories part.")
    ] = False,
    drift_prompts: Annotated[int, typer.Option("--drift-prompts", help="Prompts for --drift.")] = 16,
    summary: Annotated[
        Path | None, typer.Option("--summary", help="Append the results to this file as Markdown.")
    ] = None,
    weights_dir: o.WeightsOption = None,
    download: o.DownloadOption = False,
    device: o.DeviceOption = "auto",
    store: o.StoreOption = o.DEFAULT_STORE,
    dry_run: o.DryRunOption = False,
    json: o.JsonOption = False,
) -> None:
    """Measure how close quantized pictures are to the floating-point model's own.

    Example: sdquant evaluate --against fp --gate "psnr>=25"
    """
    from ..options.requests import EvaluateRequest
    from ..stages import evaluate as stage
    from .execute import execute

    names = tuple(name.strip() for name in require.split(",")) if require else ()
    execute(stage, EvaluateRequest, {**locals(), "gate": tuple(gate or ()), "require": names})
