"""`sdquant report`."""

from typing import TYPE_CHECKING

import typer

from .command import Invocation

if TYPE_CHECKING:
    from ..options.requests import ReportRequest


def report(request: "ReportRequest", call: Invocation) -> None:
    """Write an HTML report of metrics, with images and charts.

    It also holds the lineage of the artifacts, and the commands that reproduce them.

    Example: sdquant report --output report.html
    """
    from ..stages import report as stage
    from .execute import open_workspace

    path = stage.run(request, open_workspace(call.store))
    typer.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
