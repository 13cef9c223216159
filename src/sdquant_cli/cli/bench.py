"""`sdquant bench`."""

from statistics import median
from typing import Annotated, Any

import typer

from . import options as o

_COLUMNS = (
    "computed",
    "s of a call",
    "lowest",
    "highest",
    "wall",
    "s of a picture",
    "s to load",
    "s of 1st call",
    "memory, MB",
    "disk, MB",
    "PSNR to simulated",
)


def bench(
    state: Annotated[
        str | None, typer.Option("--state", help="Quantizer state; the latest by default.")
    ] = None,
    height: o.HeightOption = None,
    width: o.WidthOption = None,
    items: Annotated[int, typer.Option("--items", help="Latents of a UNet call; guidance makes 2 of 1.")] = 2,
    repeats: Annotated[int, typer.Option("--repeats", help="Calls of each way.")] = 3,
    pictures: Annotated[int, typer.Option("--pictures", help="To compare; 0 draws none.")] = 1,
    store: o.StoreOption = o.DEFAULT_STORE,
    json: o.JsonOption = False,
) -> None:
    """Measure the quantized model beside the floating-point one: time, memory, disk, difference.

    Times are CPU seconds over all threads; memory is what loading and one call take above the imports.
    OMP_NUM_THREADS=1 makes times comparable.

    Example: sdquant bench --height 512 --width 512
    """
    from ..artifacts.workspace import Workspace
    from ..options.requests import BenchRequest
    from ..stages import bench as stage
    from ..store import Store
    from . import render
    from .errors import request_of

    request = request_of(
        BenchRequest,
        state=state,
        height=height,
        width=width,
        items=items,
        repeats=repeats,
        pictures=pictures,
    )
    events = render.Terminal()
    result = stage.run(request, Workspace(Store(store, events), events))
    if json:
        render.print_json(result.model_dump(mode="json"))
        return
    size = f"{result.width} x {result.height}"
    render.print_pairs(f"{result.state}, {size}, {result.items} items a call, {result.threads} threads", {})
    render.print_table(_COLUMNS, [_row(way) for way in result.ways])


def _row(way: Any) -> list[str]:
    seconds, psnr = way.call_seconds, way.psnr_to_simulated
    times = (median(seconds), min(seconds), max(seconds))
    return [
        f"{way.execution} {way.dtype}",
        *(f"{value:.3f}" for value in (*times, median(way.wall_seconds))),
        f"{way.picture_seconds:.1f}",
        f"{way.load_seconds:.1f}",
        f"{way.first_call_seconds:.1f}",
        f"{way.peak_memory / 1e6:.0f}",
        f"{way.disk / 1e6:.1f}",
        "" if psnr is None else f"{psnr:.1f} dB",
    ]
