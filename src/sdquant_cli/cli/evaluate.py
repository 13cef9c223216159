"""`sdquant evaluate`."""

from typing import Annotated

import typer

from . import options as o


def evaluate(
    against: Annotated[str, typer.Option("--against", help="What to compare with: fp.")] = "fp",
    images: Annotated[
        str | None, typer.Option("--images", help="Images artifact; the latest quantized by default.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="A bound such as psnr>=25; exit 4 if not met. Repeatable."),
    ] = None,
    device: o.DeviceOption = "cpu",
    store: o.StoreOption = o.DEFAULT_STORE,
    dry_run: o.DryRunOption = False,
    json: o.JsonOption = False,
) -> None:
    """Measure how close quantized pictures are to the floating-point model's own.

    Example: sdquant evaluate --against fp --gate "psnr>=25"
    """
    from ..stages import evaluate as stage
    from ..stages.requests import EvaluateRequest
    from .execute import execute

    gates = tuple(gate or ())
    artifact = execute(stage, EvaluateRequest, {**locals(), "gate": gates})
    if artifact is not None:
        stage.check_gates(artifact, gates)
