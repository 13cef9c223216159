"""Training of one block of a quantized network to answer as the floating-point one, on captured inputs.

The rounding of weights is learned as in AdaRound (Nagel et al. 2020) and low-rank branches beside it,
activation scales by the straight-through estimator; the optimizer is Adam. The loss compares
the block's output and, in EDA-DM, the outputs of its layers.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..manifests import ReconstructSpec
from ..metrics.ratios import relative_error
from ..quant.adaround import SoftRounding, beta_at
from ..quant.drop import Drop
from ..quant.grid import TINY
from ..quant.modules import InputQuantizer, QuantConv2d, QuantLinear
from .activation_cache import Nested, mix, to_device
from .losses import collecting_outputs

Layer = QuantLinear | QuantConv2d

BRANCH_RATE = 2e-4  # of the factors of branches, as where the network is trained as a whole


class IndexedTensors(Protocol):
    """A nested value of every item."""

    def __getitem__(self, index: Tensor) -> Nested:
        """Return the value of the items of an index (n)."""


@dataclass(frozen=True)
class ReconstructionPhase:
    """One pass over all blocks, first to last."""

    rounding: bool  # whether the rounding of weights is learned
    scales: bool  # whether activation scales are learned
    drop: float  # share of layers' input values left unrounded; 1: activations are not quantized
    power: float  # of the error on outputs
    iterations: int  # of each block
    cosine: bool  # whether rates fall to zero in a cosine


def phases_of(spec: ReconstructSpec, iterations: int) -> list[ReconstructionPhase]:
    """Return the phases of a method: rounding, with scales or without; then, in some, scales alone."""
    phases = [ReconstructionPhase(True, spec.joint, spec.drop, 2.0, iterations, spec.joint)]
    if spec.second:
        phases.append(ReconstructionPhase(False, True, 0.0, 2.4, round(spec.second * iterations), True))
    return [phase for phase in phases if phase.iterations]


def error(student: Nested, teacher: Nested, power: float) -> Tensor:
    """Return |y - y_fp|^power summed over channels, mean over the rest (BRECQ: 2; Q-Diffusion: 2.4)."""
    terms = []
    for a, b in zip(_tensors(student), _tensors(teacher), strict=True):
        terms.append(_channel_sum((a - b).abs().pow(power)).mean())
    return torch.stack(terms).sum()


def _channel_sum(x: Tensor) -> Tensor:
    return x.sum(1 if x.dim() == 4 else -1)


def noise_to_signal(student: Nested, teacher: Nested) -> float:
    """Return |y - y_fp|^2 over |y_fp|^2, each summed over all tensors."""
    return relative_error(_tensors(student), _tensors(teacher))


def _tensors(value: Nested) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def input_quantizers(network: nn.Module) -> dict[str, InputQuantizer]:
    """Return all modules that round an input, by path: layers, and taps on attention's products."""
    return {name: m for name, m in network.named_modules() if isinstance(m, InputQuantizer)}


@contextmanager
def dropping(modules: Iterable[InputQuantizer], drop: Drop | None) -> Iterator[None]:
    """Let these modules leave their inputs unrounded as `drop` says."""
    before = [(module, module.drop) for module in modules]
    for module, _ in before:
        module.drop = drop
    try:
        yield
    finally:
        for module, earlier in before:
            module.drop = earlier


@dataclass
class BlockOptimizer:
    """A block in training."""

    student: nn.Module
    teacher: nn.Module
    layers: dict[str, Layer]  # of the student, by path within the block, in running order
    inputs: IndexedTensors  # (args, kwargs) in the quantized network
    fp_inputs: IndexedTensors  # (args, kwargs) in the floating-point network
    outputs: IndexedTensors  # of the teacher on `fp_inputs`
    spec: ReconstructSpec
    phase: ReconstructionPhase
    random: torch.Generator

    def __post_init__(self) -> None:
        self.device = next(iter(self.layers.values())).weight.device
        self._hidden = list(self.layers)[:-1] if self.spec.layer_weight else []
        self._roundings: list[SoftRounding] = []
        self._factors: list[Tensor] = []  # of branches
        self._scales: list[Tensor] = []

    @contextmanager
    def training(self) -> Iterator[None]:
        """Make rounding soft and drop inputs; afterwards weights are on their grids."""
        layers = list(self.layers.values())
        if self.phase.rounding:
            self._roundings = [SoftRounding(m.weight, m.weight_step, m.weight_grid) for m in layers]
            for layer, rounding in zip(layers, self._roundings, strict=True):
                layer.weight_transform, layer.weights_on_grid = rounding, True
                self._factors += [factor.requires_grad_(True) for factor in layer.branch or ()]
        if self.phase.scales:
            parts = input_quantizers(self.student).values()
            self._scales = [m.activation_step.requires_grad_(True) for m in parts]
        drop = Drop(self.phase.drop, self.random) if self.phase.drop else None
        try:
            with dropping(layers, drop):  # not in attention, which would recompute with another draw
                yield
        finally:
            for layer, rounding in zip(layers, self._roundings, strict=False):
                layer.weight_transform = None
                layer.weight = nn.Parameter(rounding.hard(), requires_grad=False)
            for parameter in (*self._factors, *self._scales):
                parameter.requires_grad_(False)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam on what the phase learns, at the spec's rates."""
        alphas: list[Tensor] = [rounding.alpha for rounding in self._roundings]
        groups = []
        rates = (
            (alphas, self.spec.weight_rate),
            (self._factors, BRANCH_RATE),
            (self._scales, self.spec.step_rate),
        )
        for parameters, rate in rates:
            if parameters and rate:
                groups.append({"params": parameters, "lr": rate, "base": rate})
        return torch.optim.Adam(groups)

    def update(self, optimizer: torch.optim.Optimizer, item: Tensor, iteration: int) -> float:
        """Make one update on these items (n) and return the loss."""
        progress = iteration / self.phase.iterations
        decay = 0.5 * (1 + math.cos(math.pi * progress)) if self.phase.cosine else 1.0
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * decay
        optimizer.zero_grad(set_to_none=True)
        loss = self._loss(item, progress)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for scale in self._scales:
                scale.clamp_(min=TINY)
        return float(loss.detach())

    def _loss(self, item: Tensor, progress: float) -> Tensor:
        fp_inputs = self.fp_inputs[item]
        inputs = mix(self.inputs[item], fp_inputs, self.spec.mixed_inputs, self.random)
        args, kwargs = to_device(inputs, self.device)
        with collecting_outputs(self.student, self._hidden) as hidden:
            output = self.student(*args, **kwargs)
        loss = error(output, to_device(self.outputs[item], self.device), self.phase.power)
        if self._hidden:
            targets = self._hidden_targets(fp_inputs)
            terms = [error(hidden[name], targets[name], self.phase.power) for name in self._hidden]
            loss = loss + self.spec.layer_weight * torch.stack(terms).sum()
        beta = beta_at(progress)
        if self._roundings and self.spec.regulariser and beta is not None:
            penalty = sum(rounding.rounding_penalty(beta) for rounding in self._roundings)
            loss = loss + self.spec.regulariser * penalty
        return loss

    @torch.no_grad()
    def _hidden_targets(self, fp_inputs: Nested) -> dict[str, Tensor]:
        args, kwargs = to_device(fp_inputs, self.device)
        with collecting_outputs(self.teacher, self._hidden) as targets:
            self.teacher(*args, **kwargs)
        return targets

    @torch.no_grad()
    def distance(self, item: Tensor) -> float:
        """Return the noise-to-signal ratio of the block's outputs on these items (n), its layers rounded."""
        args, kwargs = to_device(self.inputs[item], self.device)
        return noise_to_signal(self.student(*args, **kwargs), to_device(self.outputs[item], self.device))
