"""`sdquant export`."""

from typing import TYPE_CHECKING

import typer

from .command import Invocation

if TYPE_CHECKING:
    from ..options.requests import ExportRequest


def export(request: "ExportRequest", call: Invocation) -> None:
    """Write the quantized model as a folder that diffusers loads.

    It loads after `import sdquant_cli`.

    Example: sdquant export --output my-model-w4a8
    """
    from ..stages import export as stage
    from .execute import open_workspace

    folder = stage.run(request, open_workspace(call.store))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    typer.echo(f"{folder} ({size / 1e6:.1f} MB)")
