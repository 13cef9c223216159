"""`sdquant doctor`."""

from dataclasses import asdict

import typer

from . import options as o


def doctor(
    weights_dir: o.WeightsOption = None, download: o.DownloadOption = False, json: o.JsonOption = False
) -> None:
    """Say which metric needs which weight file, whether it is there and intact, and where to get it.

    Example: sdquant doctor
    """
    from ..options.requests import DoctorRequest
    from ..stages.doctor import examine
    from . import render
    from .errors import request_of

    request = request_of(DoctorRequest, weights_dir=weights_dir, download=download)
    weights, findings = examine(request, render.Terminal())
    if json:
        render.print_json({"folder": str(weights.folder), "files": [asdict(finding) for finding in findings]})
        return
    typer.echo(f"metric weights in {weights.folder}")
    rows = [(f.condition, f.file, ", ".join(f.needed_by), f.url) for f in findings]
    render.print_table(("", "file", "needed by", "where to get it"), rows)
    typer.echo("Metrics named [shapes-clip], psnr and ssim need no file.")
