"""One unit of a quantized network learns to answer as the floating-point one, from captured inputs.

Rounding of weights is learned as AdaRound does (Nagel et al. 2020), activation step sizes straight
through; the rates are Adam's. What is compared is the unit's output and, as EDA-DM has it, its layers'.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..manifests import ReconstructSpec
from ..metrics.ratios import relative_error
from ..quant.adaround import SoftRounding, beta_at
from ..quant.drop import Drop
from ..quant.modules import InputQuantizer, QuantConv2d, QuantLinear
from ..quant.ranges import TINY
from .activation_cache import mixed, to_device
from .losses import collecting_outputs

Layer = QuantLinear | QuantConv2d


class IndexedTensors(Protocol):
    """A nested value of every item."""

    def __getitem__(self, index: Tensor) -> Any:
        """The value of the items of an index (n)."""


@dataclass(frozen=True)
class ReconstructionPhase:
    """One pass over all units, first to last."""

    rounding: bool  # of weights is learned
    steps: bool  # of activations are learned
    drop: float  # share of layers' input values left unrounded; 1: activations are not quantized
    power: float  # of the error on outputs
    iterations: int  # of each unit
    fade: bool  # whether rates fall to zero in a cosine


def phases_of(spec: ReconstructSpec, iterations: int) -> list[ReconstructionPhase]:
    """Rounding, with step sizes or without; then, where the method has it, step sizes alone."""
    phases = [ReconstructionPhase(True, spec.joint, spec.drop, 2.0, iterations, spec.joint)]
    if spec.second:
        phases.append(ReconstructionPhase(False, True, 0.0, 2.4, round(spec.second * iterations), True))
    return [phase for phase in phases if phase.iterations]


def error(student: Any, teacher: Any, power: float) -> Tensor:
    """|y - y_fp|^power summed over channels, mean over the rest (BRECQ: 2; Q-Diffusion: 2.4)."""
    pairs = zip(_tensors(student), _tensors(teacher), strict=True)
    return torch.stack([_channel_sum((a - b).abs().pow(power)).mean() for a, b in pairs]).sum()


def _channel_sum(x: Tensor) -> Tensor:
    return x.sum(1 if x.dim() == 4 else -1)


def noise_to_signal(student: Any, teacher: Any) -> float:
    """Return |y - y_fp|^2 over |y_fp|^2 of a module's output, nested or not."""
    return relative_error(_tensors(student), _tensors(teacher))


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def inputs_rounded_in(network: nn.Module) -> dict[str, InputQuantizer]:
    """All that rounds an input, by module path: layers, and places of attention's products."""
    return {name: m for name, m in network.named_modules() if isinstance(m, InputQuantizer)}


@contextmanager
def dropping(modules: Iterable[InputQuantizer], drop: Drop | None) -> Iterator[None]:
    """Within: these leave their inputs unrounded as `drop` says."""
    kept = [(module, module.drop) for module in modules]
    for module, _ in kept:
        module.drop = drop
    try:
        yield
    finally:
        for module, before in kept:
            module.drop = before


@dataclass
class BlockOptimizer:
    """A unit in training."""

    student: nn.Module
    teacher: nn.Module
    layers: dict[str, Layer]  # of the student, by path within the unit, in running order
    inputs: IndexedTensors  # (args, kwargs) as the quantized network gives them
    fp_inputs: IndexedTensors
    outputs: IndexedTensors  # of the teacher on `fp_inputs`
    spec: ReconstructSpec
    phase: ReconstructionPhase
    random: torch.Generator

    def __post_init__(self) -> None:
        self.device = next(iter(self.layers.values())).weight.device
        self._hidden = list(self.layers)[:-1] if self.spec.layer_weight else []
        self._roundings: list[SoftRounding] = []
        self._steps: list[Tensor] = []

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within: rounding is soft and inputs are dropped; afterwards weights are on their grids."""
        layers = list(self.layers.values())
        if self.phase.rounding:
            self._roundings = [SoftRounding(m.weight, m.weight_step, m.weight_grid) for m in layers]
            for layer, rounding in zip(layers, self._roundings, strict=True):
                layer.weight_transform, layer.weights_on_grid = rounding, True
        if self.phase.steps:
            parts = inputs_rounded_in(self.student).values()
            self._steps = [m.activation_step.requires_grad_(True) for m in parts]
        drop = Drop(self.phase.drop, self.random) if self.phase.drop else None
        try:
            with dropping(layers, drop):  # not attention: what it recomputes would be dropped anew
                yield
        finally:
            for layer, rounding in zip(layers, self._roundings, strict=False):
                layer.weight_transform = None
                layer.weight = nn.Parameter(rounding.hard(), requires_grad=False)
            for step in self._steps:
                step.requires_grad_(False)

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam on what the phase learns, at the spec's rates."""
        alphas = [rounding.alpha for rounding in self._roundings]
        rates = [(alphas, self.spec.weight_rate), (self._steps, self.spec.step_rate)]
        return torch.optim.Adam([{"params": p, "lr": rate, "base": rate} for p, rate in rates if p and rate])

    def update(self, optimizer: torch.optim.Optimizer, item: Tensor, iteration: int) -> float:
        """One update on these items; returns the loss."""
        progress = iteration / self.phase.iterations
        for group in optimizer.param_groups:
            fade = 0.5 * (1 + math.cos(math.pi * progress)) if self.phase.fade else 1.0
            group["lr"] = group["base"] * fade
        optimizer.zero_grad(set_to_none=True)
        loss = self._loss(item, progress)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for step in self._steps:
                step.clamp_(min=TINY)
        return float(loss.detach())

    def _loss(self, item: Tensor, progress: float) -> Tensor:
        fp_inputs = self.fp_inputs[item]
        told = mixed(self.inputs[item], fp_inputs, self.spec.mixed_inputs, self.random)
        args, kwargs = to_device(told, self.device)
        with collecting_outputs(self.student, self._hidden) as found:
            output = self.student(*args, **kwargs)
        loss = error(output, to_device(self.outputs[item], self.device), self.phase.power)
        if self._hidden:
            wanted = self._hidden_targets(fp_inputs)
            terms = [error(found[name], wanted[name], self.phase.power) for name in self._hidden]
            loss = loss + self.spec.layer_weight * torch.stack(terms).sum()
        beta = beta_at(progress)
        if self._roundings and self.spec.regulariser and beta is not None:
            loss = loss + self.spec.regulariser * sum(r.rounding_penalty(beta) for r in self._roundings)
        return loss

    @torch.no_grad()
    def _hidden_targets(self, fp_inputs: Any) -> dict[str, Tensor]:
        args, kwargs = to_device(fp_inputs, self.device)
        with collecting_outputs(self.teacher, self._hidden) as wanted:
            self.teacher(*args, **kwargs)
        return wanted

    @torch.no_grad()
    def distance(self, item: Tensor) -> float:
        """Noise to signal of the unit's answers on these items, all that the phase rounds rounded."""
        args, kwargs = to_device(self.inputs[item], self.device)
        return noise_to_signal(self.student(*args, **kwargs), to_device(self.outputs[item], self.device))
