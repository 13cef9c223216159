"""`sdquant export`."""

from typing import TYPE_CHECKING

import typer

from .command import Invocation

if TYPE_CHECKING:
    from ..options.requests import ExportRequest


def export(request: "ExportRequest", call: Invocation) -> None:
    """Write the quantized model for diffusers or other programs.

    A folder loads in diffusers after `import sdquant_cli`; other formats are for other programs. What one
    cannot hold is named, and refused without --lossy.

    Example: sdquant export --output my-model-w4a8

    Example: sdquant export --output my-model.safetensors --format single-file
    """
    from ..stages import export as stage
    from .execute import open_workspace

    output = stage.run(request, open_workspace(call.store))
    files = output.rglob("*") if output.is_dir() else [output]
    size = sum(path.stat().st_size for path in files if path.is_file())
    typer.echo(f"{output} ({size / 1e6:.1f} MB)")
