"""`sdquant report`."""

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Metrics artifacts, side by side; the latest by default."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="The HTML file to write.")] = Path(
        "sdquant-report.html"
    ),
    pictures: Annotated[int, typer.Option("--pictures", help="Prompts whose pictures are shown.")] = 24,
    store: o.StoreOption = o.DEFAULT_STORE,
) -> None:
    """Write one HTML file with numbers, pictures, charts, lineage and the commands to reproduce.

    Example: sdquant report --output report.html
    """
    from ..artifacts.workspace import Workspace
    from ..options.requests import ReportRequest
    from ..stages import report as stage
    from ..store import Store
    from .errors import request_of
    from .render import Terminal

    request = request_of(ReportRequest, names=tuple(names or ()), output=output, pictures=pictures)
    events = Terminal()
    path = stage.run(request, Workspace(Store(store, events), events))
    typer.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
