"""Sensitivity of each layer: by gradients of the rounded network's error (eq. 10), or one layer at a time.

The paper does not name the loss of eq. (10), and the error against the floating-point network has no
gradient at the floating-point weights. Chosen here: the mean squared error of each item's prediction
against the floating-point one, its gradient taken at weights rounded to the target bits.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..events import Events, Task
from ..manifests import SensitivityFacts, SensitivitySpec
from ..metrics.ratios import decibels, energy, noise_to_signal
from ..models.layers import quantizable_layers
from ..quant.allocate import WIDTHS, extremes
from ..quant.finite import check_finite
from ..quant.fisher import collecting_terms, fisher_score, printed_score, ranking
from ..quant.format import PAPER, NumberFormat
from ..quant.grid import Grid
from ..quant.modules import LayerState
from ..quant.relaxing import relaxed_rows
from ..quant.rows import Rows
from ..quant.swap import swapped
from ..quant.weights import WeightQuantizer, weight_rounding_error, weight_scales
from ..types import Activations, Bits, Measure, Ranges
from .items import Batch, Items, prediction
from .observer import QuantizerRules, item_passes, observe_and_initialise
from .tabulated import TabulatedDenoiser

NOT_FINITE = "the network computes NaN or infinity on the latents, or once the layer is rounded"

Picks = Sequence[range]  # latents of each pass, in order
Turns = Callable[[Task], Iterable[int]]  # the units that this process computes, of all that a task counts


@dataclass(frozen=True)
class Measurement:
    """A floating-point network whose layers are ranked, and the latents they are ranked on."""

    denoiser: TabulatedDenoiser
    items: Items
    spec: SensitivitySpec
    device: torch.device
    events: Events

    @property
    def bits(self) -> Bits:
        """The bits at which layers are rounded."""
        return Bits.parse(self.spec.bits)

    def picks(self, start: int, stop: int) -> list[range]:
        """Return the latents of each pass over start..stop."""
        size = self.spec.micro_batch
        return [range(first, min(first + size, stop)) for first in range(start, stop, size)]

    def batch(self, picks: range) -> Batch:
        """Return the items of a pass."""
        return self.items.batch(picks, self.device)


# ------------------------------------------------------------------------------ by gradients


def gradient_terms(
    measurement: Measurement, units: Mapping[int, Picks], turns: Turns
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the terms d_m (latents, halves, layers) fp64 of the latents of units as their turns come.

    Each comes with the unit's number. The network is rounded in place, after its floating-point predictions
    on all units: one network in memory. Raises SdquantError for a term that is not finite.
    """
    network, items, events = measurement.denoiser.network, measurement.items, measurement.events
    names = list(quantizable_layers(network))
    targets = _targets(measurement, [picks for unit in units.values() for picks in unit])
    round_weights(network, measurement.bits)
    with events.task("sensitivity", len(targets), "batch") as task:
        for unit in turns(task):
            parts = []
            for picks in units[unit]:
                terms = item_terms(network, measurement.batch(picks), targets[picks])
                check_finite(terms.T, [f"the sensitivity of layer {name}" for name in names], NOT_FINITE)
                parts.append(terms.view(items.halves, len(picks), -1).transpose(0, 1).cpu().numpy())
                task.advance()
            yield unit, np.concatenate(parts)


@torch.no_grad()
def _targets(measurement: Measurement, passes: Picks) -> dict[range, Tensor]:
    """Return the floating-point predictions of each pass."""
    targets = {}
    with measurement.events.task("floating-point predictions", len(passes), "batch") as task:
        for picks in passes:
            targets[picks] = prediction(measurement.denoiser.network, measurement.batch(picks))
            task.advance()
    return targets


@torch.no_grad()
def round_weights(network: nn.Module, bits: Bits) -> None:
    """Round the weights of all quantizable layers, in place."""
    grid, _ = PAPER.grids(bits)
    for layer in quantizable_layers(network).values():
        layer.weight.copy_(WeightQuantizer(weight_scales(layer.weight, grid), grid).values(layer.weight))


def item_terms(rounded: nn.Module, batch: Batch, target: Tensor) -> Tensor:
    """Return d_m = <dL_m/dW, W> (items, layers), L_m the mean squared error of item m's prediction.

    `target` is the floating-point network's prediction.
    """
    # gradients reach every layer through its input; the weights themselves need none
    x, tokens = batch.x.requires_grad_(), batch.conditioning.tokens.requires_grad_()
    layers = quantizable_layers(rounded)
    with collecting_terms(layers) as terms:
        predicted = prediction(rounded, batch)
        loss = (predicted - target).square().flatten(1).mean(dim=1).sum()
        torch.autograd.grad(loss, [x, tokens])
    return torch.stack([terms[name] for name in layers], dim=1)


def gradient_facts(spec: SensitivitySpec, names: Sequence[str], terms: np.ndarray) -> SensitivityFacts:
    """Return the ranking by the terms (latents, halves, layers) of all layers."""
    d = torch.from_numpy(terms.reshape(-1, len(names)).copy())
    x = d.mean(dim=0)
    if spec.measure is Measure.FISHER:
        score = fisher_score(d)
        second = score / 2
    else:
        score = printed_score(d)
        second = x.square() / 2
    return _facts(
        spec,
        names,
        score,
        first_order=_by_layer(names, x),
        second_order=_by_layer(names, second),
    )


# --------------------------------------------------------------------- one layer at a time


class OneLayerAtATime:
    """The floating-point network with a single layer on its real grid."""

    def __init__(self, network: nn.Module, rows: Rows, batches: Sequence[Batch]) -> None:
        self.network, self.rows, self.batches = network, rows, batches
        with torch.no_grad():
            self.targets = [prediction(network, batch) for batch in batches]

    def signal(self) -> Tensor:
        """Return |y|^2 (items) of the floating-point predictions."""
        return torch.cat([energy(target) for target in self.targets])

    def noise(self, name: str, state: LayerState) -> Tensor:
        """Return |y - y_q|^2 (items) with weights and inputs of one layer quantized."""
        with swapped(self.network, {name: state.to(self.targets[0].device)}, self.rows):
            return self._noise()

    def weight_noise(self, name: str, state: LayerState) -> Tensor:
        """Return |y - y_q|^2 (items) with the weights of one layer rounded, its inputs as they are."""
        weight = self.network.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        original = weight.data
        weight.data = WeightQuantizer(state.weight_step.to(original), state.weight_grid).values(original)
        try:
            return self._noise()
        finally:
            weight.data = original

    @torch.no_grad()
    def _noise(self) -> Tensor:
        """Return |y - y_q|^2 (items) of the network as it is now."""
        parts = []
        for batch, target in zip(self.batches, self.targets, strict=True):
            parts.append(energy(prediction(self.network, batch) - target))
        return torch.cat(parts)


def layer_noises(
    measurement: Measurement, units: Mapping[int, slice], turns: Turns
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the arrays of units of layers as their turns come, each with the unit's number.

    `noise` and `weight_noise` (layers, items), `rounding_error` (layers, widths), and `signal` (items) with
    unit 0. A layer's quantizers are those of `calibrate` without training and without smoothing. Raises
    SdquantError for a noise that is not finite.
    """
    denoiser, spec, events = measurement.denoiser, measurement.spec, measurement.events
    layers = quantizable_layers(denoiser.network)
    states = _first_quantizers(measurement)
    batches = [measurement.batch(picks) for picks in measurement.picks(0, spec.latents)]
    single = OneLayerAtATime(denoiser.network, denoiser.rows, batches)
    names = {unit: list(layers)[part] for unit, part in units.items()}
    weight_grids = [Grid(bits, signed=True, narrow=not spec.full_range) for bits in WIDTHS]
    with events.task("sensitivity", sum(map(len, names.values())), "layer") as task:
        for unit in turns(task):
            noise, weight_noise, errors = [], [], []
            for name in names[unit]:
                moved = single.noise(name, states[name])
                check_finite(moved[None], [f"the noise of layer {name}"], NOT_FINITE)
                noise.append(moved.cpu().numpy())
                weight_noise.append(single.weight_noise(name, states[name]).cpu().numpy())
                errors.append([weight_rounding_error(layers[name].weight, grid) for grid in weight_grids])
                task.advance()
            arrays = {
                "noise": np.array(noise),
                "weight_noise": np.array(weight_noise),
                "rounding_error": np.array(errors),
            }
            if unit == 0:
                arrays["signal"] = single.signal().cpu().numpy()
            yield unit, arrays


def _first_quantizers(measurement: Measurement) -> dict[str, LayerState]:
    """Return the quantizers of all layers, found on all latents there are."""
    network, spec = measurement.denoiser.network, measurement.spec
    layers = quantizable_layers(network)
    passes = item_passes(measurement.items, lambda batch: prediction(network, batch), measurement.device)
    rules = QuantizerRules(
        dict.fromkeys(layers, measurement.bits),
        ranges=spec.ranges or Ranges.MIN_MAX,
        relaxed=relaxed_rows(spec.relax, len(measurement.denoiser.rows.timesteps)),
        form=NumberFormat(spec.activations is Activations.TOKEN, bool(spec.full_range)),
    )
    states, _ = observe_and_initialise(layers, passes, rules, measurement.events)
    return states


def direct_facts(
    spec: SensitivitySpec, names: Sequence[str], arrays: Mapping[str, np.ndarray]
) -> SensitivityFacts:
    """Return the ranking by the arrays of `layer_noises` for all layers."""
    signal, noise, weight_noise = (
        torch.from_numpy(arrays[name].copy()) for name in ("signal", "noise", "weight_noise")
    )
    score = noise_to_signal(noise, signal)
    return _facts(
        spec,
        names,
        score,
        sqnr={name: decibels(value) for name, value in _by_layer(names, score).items()},
        weight_noise=_by_layer(names, noise_to_signal(weight_noise, signal)),
    )


def _facts(
    spec: SensitivitySpec, names: Sequence[str], score: Tensor, **details: Mapping[str, float | None]
) -> SensitivityFacts:
    ranked = ranking(list(names), score)
    top, bottom = extremes(ranked)
    return SensitivityFacts(
        samples=spec.latents,
        ranking=tuple(ranked),
        scores=_by_layer(names, score),
        top=top,
        bottom=bottom,
        **details,
    )


def _by_layer(names: Sequence[str], values: Tensor) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
