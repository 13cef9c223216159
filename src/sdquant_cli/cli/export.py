"""`sdquant export`."""

from pathlib import Path
from typing import Annotated

import typer

from ..types import ExportFormat
from . import options as o


def export(
    output: Annotated[Path, typer.Option("--output", help="Folder to write.")],
    state: Annotated[
        str | None, typer.Option("--state", help="Quantizer state; the latest by default.")
    ] = None,
    format: Annotated[  # noqa: A002
        ExportFormat, typer.Option("--format", help="Integer codes, or fp16 weights that load anywhere.")
    ] = ExportFormat.PACKED,
    store: o.StoreOption = o.DEFAULT_STORE,
) -> None:
    """Write the quantized model as a pipeline folder that diffusers loads after `import sdquant_cli`.

    Example: sdquant export --output my-model-w4a8
    """
    from ..artifacts.workspace import Workspace
    from ..options.requests import ExportRequest
    from ..stages import export as stage
    from ..store import Store
    from .errors import request_of
    from .render import Terminal

    request = request_of(ExportRequest, output=output, state=state, format=format)
    events = Terminal()
    folder = stage.run(request, Workspace(Store(store, events), events))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    typer.echo(f"{folder} ({size / 1e6:.1f} MB)")
