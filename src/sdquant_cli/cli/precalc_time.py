"""`sdquant precalc-time`."""

from . import options as o


def precalc_time(
    scheduler: o.SchedulerOption = None,
    steps: o.StepsOption = None,
    device: o.DeviceOption = "auto",
    store: o.StoreOption = o.DEFAULT_STORE,
    dry_run: o.DryRunOption = False,
    json: o.JsonOption = False,
) -> None:
    """Tabulate the time path for every inference step, so that it can leave the UNet.

    Example: sdquant precalc-time
    """
    from ..options.requests import PrecalcTimeRequest
    from ..stages import precalc_time as stage
    from .execute import execute

    execute(stage, PrecalcTimeRequest, locals())
