"""`precalc-time`: the time path's features for every inference step, as a table (eq. 8)."""

from ..artifacts.latents import Latents
from ..artifacts.settings import inherit
from ..artifacts.time_table import TimeTable, make_time_table
from ..artifacts.workspace import Plan, Workspace
from ..manifests import Setting
from ..models.schedule import schedule_of
from ..options.requests import PrecalcTimeRequest


def plan(request: PrecalcTimeRequest, workspace: Workspace) -> Plan:
    """Return what `run` would do."""
    setting = _setting(request, workspace.need(Latents))
    schedule = schedule_of(workspace.model(setting).sampler(setting))
    return Plan("precalc-time", {"rows": len(schedule.timesteps)})


def run(request: PrecalcTimeRequest, workspace: Workspace) -> TimeTable:
    """Return the time table for the schedule of the latest latents."""
    latents = workspace.need(Latents)
    workspace.announce({"latents": latents})
    setting = _setting(request, latents)
    return make_time_table(workspace, workspace.model(setting), setting, quiet=False)


def _setting(request: PrecalcTimeRequest, latents: Latents) -> Setting:
    inherit(latents.spec.setting, request, latents)
    return latents.spec.setting
