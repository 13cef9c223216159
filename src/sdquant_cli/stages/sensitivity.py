"""`sensitivity`: rank layers by how much each matters to the quantized network's output."""

from ..artifacts.latents import Latents, load_items
from ..artifacts.sensitivity import Sensitivity, layout
from ..artifacts.settings import inherit
from ..artifacts.time_table import TimeTable, make_time_table
from ..artifacts.workspace import Blueprint, Plan, Workspace
from ..calibration.resolve import spec_without_training
from ..calibration.sensitivity import (
    Measurement,
    direct_facts,
    gradient_facts,
    gradient_terms,
    layer_noises,
)
from ..calibration.tabulated import tabulated_denoiser
from ..events import Events
from ..manifests import SensitivityFacts, SensitivitySpec
from ..models.guidance import halves
from ..options.requests import SensitivityRequest
from ..store import Draft
from ..types import Dtype, Measure

SQNR_LATENTS = 16  # by default: every layer takes two forward passes of all of them


def plan(request: SensitivityRequest, workspace: Workspace) -> Plan:
    """Return what `run` would do."""
    latents = workspace.need(Latents)
    inherit(latents.spec.setting, request, latents)
    return Plan("sensitivity", {"measure": request.measure.value, "latents": _count(request, latents)})


def run(request: SensitivityRequest, workspace: Workspace) -> Sensitivity:
    """Rank all quantizable layers on the latest latents."""
    workspace = workspace.on(request.device)
    latents = workspace.need(Latents)
    workspace.announce({"latents": latents})
    setting = latents.spec.setting
    inherit(setting, request, latents)
    model, spec = workspace.model(setting), _spec(request, latents)
    table = make_time_table(workspace, model, setting)
    arrays, units = layout(spec, len(model.layer_shapes), halves(setting.guidance_scale))

    def fill(draft: Draft) -> SensitivityFacts:
        measurement = _measurement(workspace, latents, table, spec)
        measure = _measure_directly if spec.measure is Measure.SQNR else _measure_by_gradients
        return measure(measurement, list(model.layer_shapes), draft)

    blueprint = Blueprint(spec, {"latents": latents, "time-table": table}, arrays, units)
    return workspace.produce(Sensitivity, blueprint, fill)


def _spec(request: SensitivityRequest, latents: Latents) -> SensitivitySpec:
    direct = request.measure is Measure.SQNR
    names = ("activations", "ranges", "relax", "full_range")
    grids = {name: getattr(spec_without_training(request.bits), name) for name in names} if direct else {}
    return SensitivitySpec(
        measure=request.measure,
        bits=request.bits,
        latents=_count(request, latents),
        micro_batch=request.micro_batch,
        loss=None if direct else "mse to fp, at rounded weights",
        **grids,
    )


def _count(request: SensitivityRequest, latents: Latents) -> int:
    most = SQNR_LATENTS if request.measure is Measure.SQNR else latents.facts.latents
    return min(latents.facts.latents, request.limit or most)


def _measurement(
    workspace: Workspace, latents: Latents, table: TimeTable, spec: SensitivitySpec
) -> Measurement:
    count = None if spec.measure is Measure.SQNR else spec.latents  # grids come from all latents
    items = load_items(workspace, latents, table, count)
    model, device = workspace.model(latents.spec.setting), workspace.device
    denoiser = tabulated_denoiser(model, Dtype.FP32, device, table.features())
    return Measurement(denoiser, items, spec, device, workspace.events)


def _measure_by_gradients(measurement: Measurement, names: list[str], draft: Draft) -> SensitivityFacts:
    units = {}
    for unit in draft.missing():
        units[unit] = measurement.picks(*draft.rows(unit, "first_order"))
    for unit, terms in gradient_terms(measurement, units):
        draft.write(unit, {"first_order": terms})
    facts = gradient_facts(measurement.spec, names, draft.peek("first_order"))
    _warn_of_large_terms(facts, measurement.spec, measurement.events)
    return facts


def _warn_of_large_terms(facts: SensitivityFacts, spec: SensitivitySpec, events: Events) -> None:
    largest = max(abs(x) for x in facts.first_order.values())
    if spec.measure is Measure.PRINTED and largest > 1:
        events.warn(
            f"some |x| in eq. (10) exceed 1 (largest {largest:.3g}): the printed score is not monotone there"
        )


def _measure_directly(measurement: Measurement, names: list[str], draft: Draft) -> SensitivityFacts:
    units = {unit: slice(*draft.rows(unit, "noise")) for unit in draft.missing()}
    for unit, arrays in layer_noises(measurement, units):
        draft.write(unit, arrays)
    stored = {name: draft.peek(name) for name in ("signal", "noise", "weight_noise")}
    return direct_facts(measurement.spec, names, stored)
