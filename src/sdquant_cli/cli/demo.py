"""`sdquant demo`."""

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def demo(
    output: Annotated[Path, typer.Option("--output", help="The picture to write.")] = Path(
        "sdquant-demo.png"
    ),
    store: o.StoreOption = o.DEFAULT_STORE,
) -> None:
    """Draw, quantize to w4a8, draw again and compare: all stages, on the embedded model.

    Example: sdquant demo
    """
    from ..artifacts.workspace import Workspace
    from ..paths import PNG, check_output, check_overwrites
    from ..stages import pipeline
    from ..store import Store
    from .execute import show_artifact
    from .render import Terminal

    check_output(output, "--output", store)
    check_overwrites(output, "--output", PNG, "a PNG picture")
    events = Terminal()
    opened = Store(store, events)
    metrics = pipeline.run(pipeline.demo_config(), Workspace(opened, events))
    pipeline.side_by_side(metrics, opened, output)
    show_artifact(metrics)
    typer.echo(f"pictures: {output} (above: floating-point; below: w4a8, simulated)")
