"""Reconstruction of a quantized network, unit by unit from input to output.

What BRECQ, QDrop and the methods built on them share (Li et al. 2021; Wei et al. 2022):
each unit is fitted on what the quantized part before it gives, towards the floating-point unit's answer.
To reach a unit, what the modules around it (a block of the UNet, a transformer) are given is captured once,
and the innermost alone is run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SdquantError
from ..manifests import ReconstructSpec, UnitFacts
from ..models.blocks import Block, Tap
from ..models.conditioning import predict
from ..models.noise import generator
from ..quant.drop import Drop
from ..quant.grid import along_first_axis
from ..quant.modules import InputQuantizer, QuantConv2d, QuantLinear
from .activation_cache import Captured, TensorPool, stopping_at, to_device
from .block_optimizer import (
    BlockOptimizer,
    Layer,
    ReconstructionPhase,
    dropping,
    inputs_rounded_in,
    noise_to_signal,
)
from .items import Batch, Items, shuffled
from .observer import all_batches

AT_ONCE = 8  # latents in a run that captures
CHECKED = 64  # items on which a unit is compared before and after

Saved = dict[str, dict[str, Tensor]]  # by layer


@dataclass
class Reconstruction:
    """A quantized network and the floating-point one it is brought to, in place."""

    student: Any
    teacher: Any
    items: Items
    hold: Callable[[Batch], None]  # tells both networks which items a part of them is run on
    spec: ReconstructSpec
    batch_size: int  # latents; an update takes twice as many items
    seed: int
    room: TensorPool
    forwards: float = 0.0  # whole runs of the network by one item; a backward pass counts two

    def __post_init__(self) -> None:
        self.device = next(self.student.parameters()).device
        self._parts = inputs_rounded_in(self.student)
        alone = self.spec.mixed_inputs >= 1  # units are given the floating-point network's inputs
        self._networks = (self.teacher,) if alone else (self.teacher, self.student)
        self._entered: list[Tap] = []  # modules around the unit, the outermost first
        self._given: list[dict[int, Captured]] = []  # to each of them, by network

    def fit(self, unit: Block, phase: ReconstructionPhase, place: int, total: int) -> UnitFacts:
        """Reconstruct one unit; `total` MACs are a whole run's. Raises SdquantError where it diverges."""
        with dropping(self._parts.values(), Drop(1.0) if phase.drop >= 1 else None):
            self._enter(unit)
            fp_inputs, outputs = self._captured(), self._captured()
            inputs = self._captured() if self.student in self._networks else fp_inputs
            for batch in all_batches(self.items, AT_ONCE, self.device):
                self._capture(self.teacher, unit.name, batch, fp_inputs, outputs)
                if inputs is not fp_inputs:
                    self._capture(self.student, unit.name, batch, inputs)
            prefix = len(unit.name) + 1
            own: dict[str, Any] = {name[prefix:]: self._parts[name] for name in unit.layers}
            student, teacher = (n.get_submodule(unit.name) for n in (self.student, self.teacher))
            random = generator("reconstruction", self.seed, place)
            block = BlockOptimizer(
                student, teacher, own, inputs, fp_inputs, outputs, self.spec, phase, random
            )
            before = self._distance(block)
            self._train(block, unit, place)
            after = self._distance(block)
        for captured in (inputs, fp_inputs, outputs):
            captured.free()
        self._count(unit, phase, total)
        return UnitFacts(name=unit.name, layers=len(unit.layers), before=before, after=after)

    def _train(self, block: BlockOptimizer, unit: Block, place: int) -> None:
        items = self.items.count
        batch, seed = min(self.items.halves * self.batch_size, items), self.seed * 1009 + place
        with block.training():
            optimizer = block.optimizer()
            for iteration in range(block.phase.iterations):
                item = shuffled(items, batch, iteration, seed)
                self.hold(self.items.some(item, self.device))
                loss = block.update(optimizer, item, iteration)
                if not math.isfinite(loss):
                    raise SdquantError(
                        f"reconstruction diverged in {unit.name} at iteration {iteration}: loss {loss:g}; "
                        f"lower --weight-rate or --step-rate"
                    )

    def _distance(self, block: BlockOptimizer) -> float:
        items = self.items.count
        item = torch.arange(0, items, -(-items // CHECKED))
        self.hold(self.items.some(item, self.device))
        return block.distance(item)

    def _count(self, unit: Block, phase: ReconstructionPhase, total: int) -> None:
        captures = len(self._networks) * self.items.count * unit.macs_to_end
        passes = 3 + bool(self.spec.layer_weight and len(unit.layers) > 1)  # forward, backward, the teacher's
        batch = min(self.items.halves * self.batch_size, self.items.count)
        updates = phase.iterations * batch * passes * unit.macs
        self.forwards += (captures + updates) / total

    def saved(self, unit: Block) -> Saved:
        """What reconstruction changed in a unit."""
        return {name: _saved(part) for name, part in self._parts.items() if _within(name, unit)}

    @torch.no_grad()
    def load(self, saved: Saved) -> None:
        """Put a unit back as it was saved."""
        for name, tensors in saved.items():
            layer = self._parts[name]
            if "codes" in tensors:
                assert isinstance(layer, QuantLinear | QuantConv2d)
                weight = tensors["codes"].to(layer.weight_step) * _by_channel(layer)
                layer.weight = nn.Parameter(weight, requires_grad=False)
                layer.weights_on_grid = True
            layer.activation_step.copy_(tensors["activation_step"])

    @torch.no_grad()
    def answers_alone(self, name: str) -> bool:
        """Whether a block, run by itself on the arguments it was given, answers as in the network."""
        batch = next(all_batches(self.items, 1, self.device))
        assert batch.item is not None
        inputs, outputs = self._captured(), self._captured()
        self._capture(self.teacher, name, batch, inputs, outputs)
        args, kwargs = to_device(inputs[batch.item], self.device)
        wanted = to_device(outputs[batch.item], self.device)
        inputs.free()
        outputs.free()
        try:
            again = self.teacher.get_submodule(name)(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError):
            return False
        return noise_to_signal(again, wanted) < 1e-6

    @torch.no_grad()
    def _capture(
        self, network: nn.Module, name: str, batch: Batch, inputs: Captured, outputs: Captured | None = None
    ) -> None:
        """Take in what a module is given, and what it answers, in a run that stops there."""
        assert batch.item is not None
        item = batch.item
        see_output = None if outputs is None else lambda output: outputs.add(output, item)
        with stopping_at(network.get_submodule(name), lambda told: inputs.add(told, item), see_output):
            if self._entered:
                self.hold(batch)
                args, kwargs = to_device(self._given[-1][id(network)][item], self.device)
                network.get_submodule(self._entered[-1].name)(*args, **kwargs)
            else:
                predict(network, batch.x, batch.timestep, batch.conditioning)

    @torch.no_grad()
    def _enter(self, unit: Block) -> None:
        """Capture what the modules around a unit are given, in both networks, where that is not done."""
        while self._entered and self._entered[-1] not in unit.enclosing:
            self._entered.pop()
            for given in self._given.pop().values():
                given.free()
        for place in unit.enclosing[len(self._entered) :]:
            found = {id(network): self._captured() for network in self._networks}
            for network, batch in product(self._networks, all_batches(self.items, AT_ONCE, self.device)):
                self._capture(network, place.name, batch, found[id(network)])
            self._entered.append(place)
            self._given.append(found)

    def _captured(self) -> Captured:
        return Captured(self.items.count, self.room)


def _by_channel(layer: Layer) -> Tensor:
    step: Tensor = layer.weight_step.detach()
    return along_first_axis(step, layer.weight)


def _within(name: str, unit: Block) -> bool:
    return name == unit.name or name.startswith(f"{unit.name}.")


def _saved(layer: InputQuantizer) -> dict[str, Tensor]:
    saved = {"activation_step": layer.activation_step.detach().cpu().clone()}
    if isinstance(layer, QuantLinear | QuantConv2d) and layer.weights_on_grid:
        saved["codes"] = torch.round(layer.weight.detach() / _by_channel(layer)).to(torch.int8).cpu()
    return saved
