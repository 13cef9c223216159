"""`sdquant calibrate`."""

from typing import Annotated

import typer

from . import options as o


def calibrate(
    bits: Annotated[str, typer.Option("--bits", help="Bits of weights and activations.")] = "w4a8",
    mixed: Annotated[
        bool, typer.Option("--mixed", help="More bits for the 5% most sensitive layers, fewer for the least.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Room for the weights: average bits (4.25) or bytes (3MB)."),
    ] = None,
    iterations: Annotated[int, typer.Option("--iterations", help="Updates; 0 rounds by data alone.")] = 400,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Latents per update.")] = 12,
    scheduler: o.SchedulerOption = None,
    steps: o.StepsOption = None,
    guidance_scale: o.GuidanceOption = None,
    height: o.HeightOption = None,
    width: o.WidthOption = None,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    store: o.StoreOption = o.DEFAULT_STORE,
    dry_run: o.DryRunOption = False,
    json: o.JsonOption = False,
) -> None:
    """Quantize the UNet so that its output stays that of the floating-point one.

    Example: sdquant calibrate --bits w4a8 --mixed
    """
    from ..stages import calibrate as stage
    from ..stages.requests import CalibrateRequest
    from .execute import execute

    execute(stage, CalibrateRequest, locals())
