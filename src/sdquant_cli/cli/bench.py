"""`sdquant bench`."""

from statistics import median
from typing import TYPE_CHECKING

from .command import Invocation

if TYPE_CHECKING:
    from ..options.requests import BenchRequest
    from ..stages.bench import Way

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


def bench(request: "BenchRequest", call: Invocation) -> None:
    """Compare time, memory and disk use with the original model's.

    Times are CPU seconds over all threads; memory is what loading and one call take above the imports.
    OMP_NUM_THREADS=1 makes times comparable.

    Example: sdquant bench --height 512 --width 512
    """
    from ..stages import bench as stage
    from . import render
    from .execute import open_workspace

    result = stage.run(request, open_workspace(call.store))
    if call.json:
        render.print_json(result.model_dump(mode="json"))
        return
    size = f"{result.width} x {result.height}"
    render.print_pairs(f"{result.state}, {size}, {result.items} items a call, {result.threads} threads", {})
    render.print_table(_COLUMNS, [_row(timing) for timing in result.ways])


def _row(timing: "Way") -> list[str]:
    seconds, psnr = timing.call_seconds, timing.psnr_to_simulated
    times = (median(seconds), min(seconds), max(seconds))
    return [
        f"{timing.execution} {timing.dtype}",
        *(f"{value:.3f}" for value in (*times, median(timing.wall_seconds))),
        f"{timing.picture_seconds:.1f}",
        f"{timing.load_seconds:.1f}",
        f"{timing.first_call_seconds:.1f}",
        f"{timing.peak_memory / 1e6:.0f}",
        f"{timing.disk / 1e6:.1f}",
        "" if psnr is None else f"{psnr:.1f} dB",
    ]
