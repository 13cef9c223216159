"""`sensitivity`: how much each layer matters to the rounded network's output (eq. 10)."""

import copy

import numpy as np
import torch
from torch import nn

from ..events import SILENT, Events
from ..manifests import SensitivityFacts, SensitivitySpec
from ..methods.items import Batch
from ..methods.serial_to_parallel import output_loss
from ..models.layers import quantizable_layers
from ..quant.allocate import extremes
from ..quant.fisher import first_order, mean_of_slices, ranking, scores
from ..quant.grid import round_to_grid
from ..quant.ranges import weight_steps
from ..quant.state import grids
from ..store import ArraySpec, Artifact, Store
from ..types import Bits, Dtype, Kind
from .calibration_data import load_items
from .chain import Plan, announce, inherit, open_model, publish, refs, up_to_date, use_device
from .precalc_time import for_setting, unet_on_table
from .requests import SensitivityRequest

SLICES_PER_UNIT = 8


def plan(request: SensitivityRequest, store: Store) -> Plan:
    latents = store.need(Kind.LATENTS)
    inherit(latents.spec.setting, request, latents)
    return Plan(
        "sensitivity", {"latents": min(latents.facts.latents, request.limit or latents.facts.latents)}
    )


def run(request: SensitivityRequest, store: Store, events: Events = SILENT) -> Artifact:
    """Rank all quantizable layers on the latest latents."""
    bits = Bits.parse(request.bits)
    latents = store.need(Kind.LATENTS)
    announce(events, {"latents": latents})
    setting = latents.spec.setting
    inherit(setting, request, latents)
    device, model = use_device(request.device), open_model(setting)
    count = min(latents.facts.latents, request.limit or latents.facts.latents)
    slices = -(-count // request.micro_batch)
    layers = len(model.layer_shapes)
    arrays = {
        "first_order": ArraySpec((slices, layers), "float64", ("slice", "layer"), SLICES_PER_UNIT, 1),
        "samples": ArraySpec((slices,), "int64", ("slice",), SLICES_PER_UNIT, 1),
    }
    spec = SensitivitySpec(bits=str(bits), micro_batch=request.micro_batch)
    table = for_setting(model, setting, store)
    inputs = refs({"latents": latents, "time-table": table})
    draft = store.begin(spec, inputs, arrays, -(-slices // SLICES_PER_UNIT))
    if isinstance(draft, Artifact):
        return up_to_date(store, draft, events)
    items = load_items(store, latents, table, count)
    teacher, _ = unet_on_table(model, Dtype.FP32, device, table)
    rounded, _ = unet_on_table(model, Dtype.FP32, device, table)
    round_weights(rounded, bits)
    with events.task("sensitivity", len(draft.missing()) * SLICES_PER_UNIT, "slice") as task:
        for unit in draft.missing():
            found = []
            for i in range(*draft.rows(unit, "samples")):
                picks = range(i * request.micro_batch, min((i + 1) * request.micro_batch, count))
                found.append(
                    (list(layer_terms(teacher, rounded, items.batch(picks, device)).values()), len(picks))
                )
                task.advance()
            draft.write(
                unit,
                {"first_order": np.array([x for x, _ in found]), "samples": np.array([n for _, n in found])},
            )
    facts = _rank(list(model.layer_shapes), draft.peek("first_order"), draft.peek("samples"))
    largest = max(abs(x) for x in facts.first_order.values())
    if largest > 1:
        events.warn(
            f"some |x| in eq. (10) exceed 1 (largest {largest:.3g}): the printed score is not monotone there"
        )
    return publish(store, draft, facts)


@torch.no_grad()
def round_weights(unet: nn.Module, bits: Bits) -> None:
    """Round the weights of all quantizable layers in place and let them take gradients."""
    grid, _ = grids(bits)
    for layer in quantizable_layers(unet).values():
        step = weight_steps(layer.weight, grid).view(-1, *[1] * (layer.weight.dim() - 1))
        layer.weight.copy_(round_to_grid(layer.weight, step, 0.0, grid))
        layer.weight.requires_grad_(True)


def layer_terms(teacher: nn.Module, rounded: nn.Module, batch: Batch) -> dict[str, float]:
    """<dL/dW, W> per layer, L the error of the rounded network against the floating-point one."""
    inputs = (batch.x, batch.timestep, batch.context)
    with torch.no_grad():
        target = teacher(*inputs).sample
    weights = {name: layer.weight for name, layer in quantizable_layers(rounded).items()}
    loss = output_loss(rounded(*inputs).sample, target)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return first_order(
        {n: w.detach() for n, w in weights.items()}, dict(zip(weights, gradients, strict=True))
    )


def _rank(names: list[str], slices: np.ndarray, samples: np.ndarray) -> SensitivityFacts:
    x = mean_of_slices(torch.from_numpy(copy.copy(slices)), torch.from_numpy(copy.copy(samples)))
    score = scores(x)
    ranked = ranking(names, score)
    top, bottom = extremes(ranked)
    return SensitivityFacts(
        samples=int(samples.sum()),
        ranking=tuple(ranked),
        scores=dict(zip(names, score.tolist(), strict=True)),
        first_order=dict(zip(names, x.tolist(), strict=True)),
        second_order=dict(zip(names, (0.5 * x.square()).tolist(), strict=True)),
        top=top,
        bottom=bottom,
    )
