"""`sdquant quantize`."""

from typing import TYPE_CHECKING

import typer

from .command import Invocation

if TYPE_CHECKING:
    from ..options.requests import QuantizeRequest


def quantize(request: "QuantizeRequest", call: Invocation) -> None:
    """Round a model's weights, without calibration.

    It writes a folder that diffusers loads after `import sdquant_cli`, and needs no prompts. Weights are
    rounded to nearest; inputs have a scale for each token and pixel, found at run time, so any scheduler
    and size draws. Below 8 bits, `calibrate` keeps images closer. --components takes text encoders and the
    autoencoder too; --dry-run lists the size of each.

    Example: sdquant quantize my-model --bits w8a8 --output my-model-w8a8
    """
    from ..stages import quantize as stage
    from .render import Terminal, print_pairs

    if call.dry_run:
        sizes = stage.sizes(request)
        lines = {part: f"{megabytes(size.bytes)}, {size.bits or 'as it is'}" for part, size in sizes.items()}
        total = sum(size.bytes for size in sizes.values())
        print_pairs("quantize would write", {**lines, "together": megabytes(total)})
        return
    folder = stage.run(request, Terminal())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    typer.echo(f"{folder} ({megabytes(size)})")


def megabytes(size: int) -> str:
    """Return a number of bytes as text."""
    return f"{size / 1e6:.1f} MB"
