"""`sdquant sensitivity`."""

from typing import Annotated

import typer

from ..types import Measure
from . import options as o


def sensitivity(
    measure: Annotated[
        Measure,
        typer.Option("--measure", help="By gradients (printed, fisher), or one layer at a time (sqnr)."),
    ] = Measure.PRINTED,
    bits: Annotated[
        str, typer.Option("--bits", help="Bits at which layers are rounded, as in w4a8.")
    ] = "w4a8",
    limit: o.LimitOption = None,
    micro_batch: o.MicroBatchOption = 8,
    device: o.DeviceOption = "auto",
    store: o.StoreOption = o.DEFAULT_STORE,
    dry_run: o.DryRunOption = False,
    json: o.JsonOption = False,
) -> None:
    """Rank all layers by how much they matter to the quantized output.

    Example: sdquant sensitivity --measure sqnr
    """
    from ..options.requests import SensitivityRequest
    from ..stages import sensitivity as stage
    from .execute import execute

    execute(stage, SensitivityRequest, locals())
