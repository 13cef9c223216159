"""`sdquant demo`."""

from typing import TYPE_CHECKING

import typer

from .command import Invocation

if TYPE_CHECKING:
    from ..options.commands import DemoRequest


def demo(request: "DemoRequest", call: Invocation) -> None:
    """Run all stages on the embedded model and show the images.

    It draws, quantizes to w4a8, draws again and compares.

    Example: sdquant demo
    """
    from ..artifacts.images import Images
    from ..paths import PNG, check_output, check_overwrites
    from ..stages import pipeline
    from .execute import open_workspace, show_artifact

    check_output(request.output, "--output", call.store)
    check_overwrites(request.output, "--output", PNG, "a PNG picture")
    workspace = open_workspace(call.store)
    metrics = pipeline.run(pipeline.demo_config(), workspace)
    pipeline.side_by_side(metrics, workspace.store, request.output)
    show_artifact(metrics)
    engine = workspace.input(Images, metrics, "images").spec.engine
    typer.echo(f"images: {request.output} (above: floating-point; below: w4a8, {engine})")
