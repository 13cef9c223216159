"""`precalc-time`: the time path's features for every inference step, as a table (eq. 8)."""

from ..artifacts.time_table import for_setting
from ..artifacts.workspace import Plan, announce, inherit, open_model
from ..events import SILENT, Events
from ..manifests import Setting
from ..models.schedule import schedule_of
from ..options.requests import PrecalcTimeRequest
from ..store import Artifact, Store
from ..types import Kind


def plan(request: PrecalcTimeRequest, store: Store) -> Plan:
    setting = _setting(request, store, SILENT)
    schedule = schedule_of(open_model(setting).sampler(setting))
    return Plan("precalc-time", {"rows": len(schedule.timesteps)})


def run(request: PrecalcTimeRequest, store: Store, events: Events = SILENT) -> Artifact:
    """The time table for the schedule of the latest latents."""
    setting = _setting(request, store, events)
    return for_setting(open_model(setting), setting, store, events)


def _setting(request: PrecalcTimeRequest, store: Store, events: Events) -> Setting:
    latents = store.need(Kind.LATENTS)
    announce(events, {"latents": latents})
    setting: Setting = latents.spec.setting
    inherit(setting, request, latents)
    return setting
