"""`sensitivity`: how much each layer matters to the quantized network's output, by one of three measures."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch

from ..artifacts.latents import Latents, load_items
from ..artifacts.sensitivity import Sensitivity
from ..artifacts.settings import inherit
from ..artifacts.time_table import TimeTable, make_time_table
from ..artifacts.workspace import Blueprint, Plan, Workspace
from ..calibration.items import Items, prediction
from ..calibration.observer import initial_states, observe
from ..calibration.resolve import recipe_of, spec_of
from ..calibration.sensitivity import OneLayerAtATime, item_terms, round_weights
from ..calibration.tabulated import tabulated_denoiser
from ..events import Events
from ..manifests import SensitivityFacts, SensitivitySpec
from ..metrics.ratios import decibels, noise_to_signal
from ..models.guidance import halves
from ..models.layers import is_text_fed, quantizable_layers
from ..models.load import Model
from ..options.requests import CalibrateRequest, SensitivityRequest
from ..quant.allocate import WIDTHS, extremes
from ..quant.finite import check_finite
from ..quant.fisher import fisher_score, printed_score, ranking
from ..quant.ranges import weight_rounding_error
from ..quant.relaxing import relaxed_rows
from ..store import ArraySpec, Draft
from ..types import Bits, Dtype, Measure, Ranges

BATCHES_PER_UNIT = 8
LAYERS_PER_UNIT = 8
SQNR_LATENTS = 16  # by default: a forward pass of all of them for every layer, twice
NOT_FINITE = "the network computes NaN or infinity on the latents, or once the layer is rounded"


@dataclass(frozen=True)
class _Work:
    """What both ways of measuring need."""

    spec: SensitivitySpec
    model: Model
    table: TimeTable
    items: Items
    device: torch.device
    draft: Draft
    events: Events

    @property
    def bits(self) -> Bits:
        return Bits.parse(self.spec.bits)

    def picks(self, start: int, stop: int) -> Iterator[range]:
        """Latents of each pass over start..stop."""
        size = self.spec.micro_batch
        return (range(i, min(i + size, stop)) for i in range(start, stop, size))


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
    device, model = workspace.device, workspace.model(setting)
    direct, spec = request.measure is Measure.SQNR, _spec(request, latents)
    table = make_time_table(workspace, model, setting)
    each = halves(setting.guidance_scale)
    arrays, units = (_direct_layout if direct else _gradient_layout)(spec, len(model.layer_shapes), each)

    def fill(draft: Draft) -> SensitivityFacts:
        # the grids are those of all latents
        items = load_items(workspace, latents, table, None if direct else spec.latents)
        work = _Work(spec, model, table, items, device, draft, workspace.events)
        return _measure_directly(work) if direct else _measure_by_gradients(work)

    blueprint = Blueprint(spec, {"latents": latents, "time-table": table}, arrays, units)
    return workspace.produce(Sensitivity, blueprint, fill)


def _spec(request: SensitivityRequest, latents: Latents) -> SensitivitySpec:
    common = {
        "measure": request.measure,
        "bits": request.bits,
        "latents": _count(request, latents),
        "micro_batch": request.micro_batch,
    }
    if request.measure is not Measure.SQNR:
        return SensitivitySpec(**common, loss="mse to fp, at rounded weights")
    default = CalibrateRequest(bits=request.bits, iterations=0)
    state = spec_of(default, recipe_of(default), 1, ranked=False, pictures=None)
    return SensitivitySpec(**common, loss=None, ranges=state.ranges, relax=state.relax)


def _count(request: SensitivityRequest, latents: Latents) -> int:
    most = SQNR_LATENTS if request.measure is Measure.SQNR else latents.facts.latents
    return min(latents.facts.latents, request.limit or most)


# ------------------------------------------------------------------------------ by gradients


def _gradient_layout(spec: SensitivitySpec, layers: int, each: int) -> tuple[dict[str, ArraySpec], int]:
    rows = spec.micro_batch * BATCHES_PER_UNIT
    dims = ("latent", "without_and_with_prompt" if each == 2 else "with_prompt", "layer")
    array = ArraySpec((spec.latents, each, layers), "float64", dims, rows, rows)
    return {"first_order": array}, -(-spec.latents // rows)


def _measure_by_gradients(work: _Work) -> SensitivityFacts:
    network = tabulated_denoiser(work.model, Dtype.FP32, work.device, work.table.features()).network
    draft, missing = work.draft, work.draft.missing()
    batches = {unit: list(work.picks(*draft.rows(unit, "first_order"))) for unit in missing}
    count = sum(map(len, batches.values()))
    targets = {}
    with work.events.task("floating-point predictions", count, "batch") as task, torch.no_grad():
        for picks in chain.from_iterable(batches.values()):
            targets[picks] = prediction(network, work.items.batch(picks, work.device))
            task.advance()
    round_weights(network, work.bits)  # in place: one network in memory
    names = list(work.model.layer_shapes)
    with work.events.task("sensitivity", count, "batch") as task:
        for unit in missing:
            found = []
            for picks in batches[unit]:
                terms = item_terms(network, work.items.batch(picks, work.device), targets[picks])
                check_finite(terms.T, [f"the sensitivity of layer {name}" for name in names], NOT_FINITE)
                found.append(terms.view(work.items.halves, len(picks), -1).transpose(0, 1).cpu().numpy())
                task.advance()
            draft.write(unit, {"first_order": np.concatenate(found)})
    facts = _gradient_facts(work.spec, names, draft.peek("first_order"))
    largest = max(abs(x) for x in facts.first_order.values())
    if work.spec.measure is Measure.PRINTED and largest > 1:
        work.events.warn(
            f"some |x| in eq. (10) exceed 1 (largest {largest:.3g}): the printed score is not monotone there"
        )
    return facts


def _gradient_facts(spec: SensitivitySpec, names: list[str], terms: np.ndarray) -> SensitivityFacts:
    d = torch.from_numpy(terms.reshape(-1, len(names)).copy())
    x = d.mean(dim=0)
    fisher = spec.measure is Measure.FISHER
    score = fisher_score(d) if fisher else printed_score(d)
    second = score / 2 if fisher else x.square() / 2
    ranked = ranking(names, score)
    top, bottom = extremes(ranked)
    return SensitivityFacts(
        samples=spec.latents,
        ranking=tuple(ranked),
        scores=_by_layer(names, score),
        first_order=_by_layer(names, x),
        second_order=_by_layer(names, second),
        top=top,
        bottom=bottom,
    )


# --------------------------------------------------------------------- one layer at a time


def _direct_layout(spec: SensitivitySpec, layers: int, each: int) -> tuple[dict[str, ArraySpec], int]:
    items = each * spec.latents
    by_item, by_width = ("layer", "item"), ("layer", "width")
    unit = (LAYERS_PER_UNIT, LAYERS_PER_UNIT)
    return {
        "signal": ArraySpec((items,), "float64", ("item",)),  # all of it in the first unit
        "noise": ArraySpec((layers, items), "float64", by_item, *unit),
        "weight_noise": ArraySpec((layers, items), "float64", by_item, *unit),
        "rounding_error": ArraySpec((layers, len(WIDTHS)), "float64", by_width, *unit),
    }, -(-layers // LAYERS_PER_UNIT)


def _measure_directly(work: _Work) -> SensitivityFacts:
    tabulated = tabulated_denoiser(work.model, Dtype.FP32, work.device, work.table.features())
    network, rows = tabulated.network, tabulated.rows
    layers = quantizable_layers(network)
    observed = observe(layers, work.items, partial(prediction, network), work.device, work.events)
    relaxed = relaxed_rows(work.spec.relax, len(rows.timesteps))
    bits, ranges = dict.fromkeys(layers, work.bits), work.spec.ranges or Ranges.MIN_MAX
    states = initial_states(observed, bits, is_text_fed, ranges=ranges, relaxed=relaxed, events=work.events)
    batches = [work.items.batch(picks, work.device) for picks in work.picks(0, work.spec.latents)]
    direct, draft, names = OneLayerAtATime(network, rows, batches), work.draft, list(layers)
    missing = draft.missing()
    with work.events.task("sensitivity", len(missing) * LAYERS_PER_UNIT, "layer") as task:
        for unit in missing:
            found: dict[str, list[np.ndarray]] = {"noise": [], "weight_noise": [], "rounding_error": []}
            for name in names[slice(*draft.rows(unit, "noise"))]:
                noise = direct.noise(name, states[name])
                check_finite(noise[None], [f"the noise of layer {name}"], NOT_FINITE)
                found["noise"].append(noise.cpu().numpy())
                found["weight_noise"].append(direct.weight_noise(name, states[name]).cpu().numpy())
                weight = layers[name].weight
                found["rounding_error"].append(np.array([weight_rounding_error(weight, b) for b in WIDTHS]))
                task.advance()
            values = {name: np.array(rows_found) for name, rows_found in found.items()}
            draft.write(unit, values | ({"signal": direct.signal().cpu().numpy()} if unit == 0 else {}))
    return _direct_facts(work.spec, names, draft)


def _direct_facts(spec: SensitivitySpec, names: list[str], draft: Draft) -> SensitivityFacts:
    signal, noise, by_weights = (
        torch.from_numpy(draft.peek(name).copy()) for name in ("signal", "noise", "weight_noise")
    )
    score = noise_to_signal(noise, signal)
    ranked = ranking(names, score)
    top, bottom = extremes(ranked)
    return SensitivityFacts(
        samples=spec.latents,
        ranking=tuple(ranked),
        scores=_by_layer(names, score),
        sqnr={name: decibels(value) for name, value in _by_layer(names, score).items()},
        weight_noise=_by_layer(names, noise_to_signal(by_weights, signal)),
        top=top,
        bottom=bottom,
    )


def _by_layer(names: list[str], values: torch.Tensor) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
