"""`sensitivity`: rank layers by how much each matters to the quantized network's output, or as listed."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..artifacts.latents import Latents, load_items
from ..artifacts.sensitivity import Sensitivity, layout
from ..artifacts.settings import inherit
from ..artifacts.time_table import TimeTable, make_time_table
from ..artifacts.workspace import Blueprint, Plan, Planned, Workspace
from ..calibration.published_ranking import digest, read_ranking
from ..calibration.sensitivity import (
    Measurement,
    direct_facts,
    gradient_facts,
    gradient_terms,
    layer_noises,
)
from ..calibration.tabulated import tabulated_denoiser
from ..errors import UsageProblem
from ..events import SILENT, Events
from ..manifests import SensitivityFacts, SensitivitySpec
from ..methods.resolve import spec_without_training
from ..models.guidance import halves
from ..options.requests import SensitivityRequest
from ..quant.allocate import extremes
from ..ranks import current
from ..store import Draft, Facts, lengths
from ..types import Dtype, Measure

SQNR_LATENTS = 16  # by default: every layer takes two forward passes of all of them


def plan(request: SensitivityRequest, workspace: Workspace) -> Plan:
    """Return what `run` would do."""
    latents = workspace.need(Latents)
    inherit(latents.spec.setting, request, latents)
    _check_ranking(request)
    numbers: dict[str, int | float | str]
    if request.ranking:
        listed = _listed(request, workspace, latents)
        spec, facts = _published_spec(request, listed), _facts_of(listed)
        numbers = {"measure": spec.measure.value, "layers": len(listed)}
    else:
        spec = _spec(request, latents)
        facts = SensitivityFacts(samples=spec.latents, ranking=(), scores={}, top=(), bottom=())
        numbers = {"measure": spec.measure.value, "latents": spec.latents}
    return Plan("sensitivity", numbers, Planned(spec, facts, {"latents": latents.ref}))


def run(request: SensitivityRequest, workspace: Workspace) -> Sensitivity:
    """Rank all quantizable layers on the latest latents."""
    workspace = workspace.on(request.device)
    latents = workspace.need(Latents)
    workspace.announce({"latents": latents})
    setting = latents.spec.setting
    inherit(setting, request, latents)
    _check_ranking(request)
    if request.ranking:
        return _published(request, workspace, latents)
    model, spec = workspace.model(setting), _spec(request, latents)
    table = make_time_table(workspace, model, setting)
    arrays, units = layout(spec, len(model.layer_shapes), halves(setting.guidance_scale))

    def fill(draft: Draft) -> Facts:
        start = partial(_measurement, workspace, latents, table, spec)
        measure = _measure_directly if spec.measure is Measure.SQNR else _measure_by_gradients
        return measure(start, list(model.layer_shapes), draft)

    blueprint = Blueprint(spec, {"latents": latents, "time-table": table}, arrays, units)
    return workspace.produce(Sensitivity, blueprint, fill)


def _check_ranking(request: SensitivityRequest) -> None:
    """Raise UsageProblem for an option that has no effect with --ranking, or needs it."""
    measure = request.measure
    if request.ranking and measure not in (Measure.PRINTED, Measure.PUBLISHED):
        raise UsageProblem(f"--measure {measure}: has no effect with --ranking; leave one of them out")
    if request.ranking and request.limit is not None:
        raise UsageProblem(f"--limit {request.limit}: has no effect with --ranking, which reads no latents")
    if measure is Measure.PUBLISHED and not request.ranking:
        raise UsageProblem(f"--measure {measure}: requires --ranking FILE")


def _published(request: SensitivityRequest, workspace: Workspace, latents: Latents) -> Sensitivity:
    """Return the ranking that a file lists, of the model of the latents."""
    listed = _listed(request, workspace, latents)
    spec = _published_spec(request, listed)
    positions = [listed.index(name) for name in workspace.model(latents.spec.setting).layer_shapes]

    def fill(draft: Draft) -> SensitivityFacts:
        for unit in draft.missing():
            draft.write(unit, {"position": np.array(positions, dtype=np.int64)})
        return _facts_of(listed)

    arrays, units = layout(spec, len(listed), 1)
    return workspace.produce(Sensitivity, Blueprint(spec, {"latents": latents}, arrays, units), fill)


def _listed(request: SensitivityRequest, workspace: Workspace, latents: Latents) -> tuple[str, ...]:
    """Return all layers of the model of the latents, as the request's file lists them."""
    assert request.ranking is not None
    return read_ranking(request.ranking, list(workspace.model(latents.spec.setting).layer_shapes))


def _published_spec(request: SensitivityRequest, listed: Sequence[str]) -> SensitivitySpec:
    return SensitivitySpec(
        measure=Measure.PUBLISHED,
        bits=request.bits,
        latents=0,
        micro_batch=request.micro_batch,
        loss=None,
        ranking=digest(listed),
    )


def _facts_of(listed: Sequence[str]) -> SensitivityFacts:
    """Return the facts of a listed ranking; its scores say no more than its order."""
    scores = {name: 1 - position / len(listed) for position, name in enumerate(listed)}
    top, bottom = extremes(listed)
    return SensitivityFacts(samples=0, ranking=tuple(listed), scores=scores, top=top, bottom=bottom)


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


def _measure_by_gradients(start: Callable[[], Measurement], names: list[str], draft: Draft) -> Facts:
    """Measure this rank's part of the units, then one by one those that other ranks have left."""
    measurement, missing = start(), draft.missing()
    mine = current().part(missing)
    _write_terms(measurement, draft, mine)
    others = dict.fromkeys(sorted(set(missing) - set(mine)), 1)
    with SILENT.task("", 0, "") as task:
        for unit in draft.turns(others, task):
            _write_terms(start(), draft, [unit], taken=True)
    return partial(_gradient_facts, measurement, names, draft)


def _write_terms(
    measurement: Measurement, draft: Draft, units: Sequence[int], *, taken: bool = False
) -> None:
    """Write units, each as its turn comes, or `taken` already."""
    picks = {}
    for unit in units:
        picks[unit] = measurement.picks(*draft.rows(unit, "first_order"))
    sizes = dict(zip(units, map(len, picks.values()), strict=True))
    turns = partial(draft.turns, sizes)
    for unit, terms in gradient_terms(measurement, picks, (lambda _: units) if taken else turns):
        draft.write(unit, {"first_order": terms})


def _gradient_facts(measurement: Measurement, names: list[str], draft: Draft) -> SensitivityFacts:
    facts = gradient_facts(measurement.spec, names, draft.peek("first_order"))
    _warn_of_large_terms(facts, measurement.spec, measurement.events)
    return facts


def _warn_of_large_terms(facts: SensitivityFacts, spec: SensitivitySpec, events: Events) -> None:
    largest = max(abs(x) for x in facts.first_order.values())
    if spec.measure is Measure.PRINTED and largest > 1:
        events.warn(
            f"some |x| in eq. (10) exceed 1 (largest {largest:.3g}): the printed score is not monotone there"
        )


def _measure_directly(start: Callable[[], Measurement], names: list[str], draft: Draft) -> Facts:
    measurement, missing = start(), draft.missing_rows("noise")
    units = {unit: slice(rows.start, rows.stop) for unit, rows in missing.items()}
    for unit, arrays in layer_noises(measurement, units, partial(draft.turns, lengths(missing))):
        draft.write(unit, arrays)
    return partial(_direct_facts, measurement, names, draft)


def _direct_facts(measurement: Measurement, names: list[str], draft: Draft) -> SensitivityFacts:
    stored = {name: draft.peek(name) for name in ("signal", "noise", "weight_noise")}
    return direct_facts(measurement.spec, names, stored)
