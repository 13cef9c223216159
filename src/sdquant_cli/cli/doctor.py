"""`sdquant doctor`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from .command import Invocation

if TYPE_CHECKING:
    from ..options.requests import DoctorRequest


def doctor(request: "DoctorRequest", call: Invocation) -> None:
    """List weight files of metrics, and the integer kernels.

    Example: sdquant doctor
    """
    from ..stages.doctor import examine, integer_engine, integer_engine_on_gpu
    from . import render

    weights, findings = examine(request, render.Terminal())
    if call.json:
        files = [asdict(finding) for finding in findings]
        engines = {"integer_engine": integer_engine(), "integer_engine_on_gpu": integer_engine_on_gpu()}
        render.print_json({**engines, "folder": str(weights.folder), "files": files})
        return
    typer.echo(f"integer engine: {integer_engine()}")
    if on_gpu := integer_engine_on_gpu():
        typer.echo(f"integer engine on the GPU: {on_gpu}")
    typer.echo(f"metric weights in {weights.folder}")
    rows = [(f.condition, f.file, ", ".join(f.needed_by), f.url) for f in findings]
    render.print_table(("", "file", "needed by", "where to get it"), rows)
    typer.echo("Metrics named [shapes-clip], psnr and ssim need no file.")
