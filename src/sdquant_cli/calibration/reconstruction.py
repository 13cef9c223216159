"""Reconstruction of a quantized network, block by block from input to output.

This is the common part of BRECQ, QDrop and the methods built on them (Li et al. 2021; Wei et al. 2022):
each block is trained on what the quantized blocks before it give, towards the floating-point block's answer.
To reach a block, the arguments of the modules that enclose it (a block of the UNet, a transformer) are
captured once, and the innermost module alone is run.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import SdquantError
from ..manifests import ReconstructSpec, UnitFacts
from ..models.blocks import Block, Tap
from ..models.noise import generator
from ..quant.drop import Drop
from ..quant.modules import InputQuantizer, QuantConv2d, QuantLinear
from ..quant.state import BRANCH_FIELDS
from ..quant.weights import WeightQuantizer, dequantized_weight
from .activation_cache import ActivationCache, TensorPool, stopping_at, to_device
from .block_optimizer import (
    BlockOptimizer,
    Layer,
    ReconstructionPhase,
    dropping,
    input_quantizers,
    noise_to_signal,
)
from .items import Batch, Items, prediction, shuffled

CAPTURE_BATCH = 8  # latents in a run that captures
COMPARED = 64  # items on which a block is compared before and after

LayerTensors = dict[str, dict[str, Tensor]]  # tensors by name, by layer


@dataclass
class Reconstruction:
    """A quantized network that is trained in place, and the floating-point one that it is compared with."""

    student: nn.Module
    teacher: nn.Module
    items: Items
    set_batch: Callable[[Batch], None]  # before a part of either network is run on the items of a batch
    spec: ReconstructSpec
    batch_size: int  # latents; an update takes all items of each
    seed: int
    pool: TensorPool
    forwards: float = 0.0  # whole runs of the network by one item; a backward pass counts two

    def __post_init__(self) -> None:
        self.device = next(self.student.parameters()).device
        self._quantizers = input_quantizers(self.student)
        teacher_inputs_alone = self.spec.mixed_inputs >= 1
        self._networks = (self.teacher,) if teacher_inputs_alone else (self.teacher, self.student)
        self._entered: list[Tap] = []  # modules enclosing the block, the outermost first
        self._arguments: list[dict[int, ActivationCache]] = []  # of each of them, by id of the network

    def fit(self, block: Block, phase: ReconstructionPhase, index: int, total: int) -> UnitFacts:
        """Reconstruct one block and return how near it came.

        `index` seeds its random numbers; `total` is the MACs of a whole run. Raises SdquantError if the loss
        is not finite.
        """
        with dropping(self._quantizers.values(), Drop(1.0) if phase.drop >= 1 else None):
            self._enter(block)
            fp_inputs, outputs = self._cache(), self._cache()
            inputs = self._cache() if self.student in self._networks else fp_inputs
            for batch in self.items.batches(CAPTURE_BATCH, self.device):
                self._capture(self.teacher, block.name, batch, fp_inputs, outputs)
                if inputs is not fp_inputs:
                    self._capture(self.student, block.name, batch, inputs)
            optimizer = BlockOptimizer(
                self.student.get_submodule(block.name),
                self.teacher.get_submodule(block.name),
                self._layers_within(block),
                inputs,
                fp_inputs,
                outputs,
                self.spec,
                phase,
                generator("reconstruction", self.seed, index),
            )
            before = self._distance(optimizer)
            self._train(optimizer, block, index)
            after = self._distance(optimizer)
        for captured in (inputs, fp_inputs, outputs):
            captured.free()
        self._count(block, phase, total)
        return UnitFacts(name=block.name, layers=len(block.layers), before=before, after=after)

    def _layers_within(self, block: Block) -> dict[str, Layer]:
        """Return the layers of a block by path within it."""
        layers: dict[str, Layer] = {}
        for name in block.layers:
            layer = self._quantizers[name]
            assert isinstance(layer, QuantLinear | QuantConv2d)
            layers[name[len(block.name) + 1 :]] = layer
        return layers

    def _train(self, optimizer: BlockOptimizer, block: Block, index: int) -> None:
        items = self.items.count
        batch, seed = min(self.items.halves * self.batch_size, items), self.seed * 1009 + index
        with optimizer.training():
            adam = optimizer.optimizer()
            for iteration in range(optimizer.phase.iterations):
                item = shuffled(items, batch, iteration, seed)
                self.set_batch(self.items.some(item, self.device))
                loss = optimizer.update(adam, item, iteration)
                if not math.isfinite(loss):
                    raise SdquantError(
                        f"reconstruction diverged in {block.name} at iteration {iteration}: loss {loss:g}; "
                        f"lower --weight-rate or --step-rate"
                    )

    def _distance(self, optimizer: BlockOptimizer) -> float:
        items = self.items.count
        item = torch.arange(0, items, -(-items // COMPARED))
        self.set_batch(self.items.some(item, self.device))
        return optimizer.distance(item)

    def _count(self, block: Block, phase: ReconstructionPhase, total: int) -> None:
        """Add the cost of a block."""
        captures = len(self._networks) * self.items.count * block.macs_to_end
        passes = 3  # forward, and backward as two
        if self.spec.layer_weight and len(block.layers) > 1:
            passes += 1  # the teacher's
        batch = min(self.items.halves * self.batch_size, self.items.count)
        updates = phase.iterations * batch * passes * block.macs
        self.forwards += (captures + updates) / total

    def trained_tensors(self, block: Block) -> LayerTensors:
        """Return everything that reconstruction changed in a block."""
        saved = {}
        for name, layer in self._quantizers.items():
            if name == block.name or name.startswith(f"{block.name}."):
                saved[name] = _trained_tensors(layer)
        return saved

    @torch.no_grad()
    def load(self, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put the tensors of a block in place."""
        for name, tensors in saved.items():
            layer = self._quantizers[name]
            if "codes" in tensors:
                assert isinstance(layer, QuantLinear | QuantConv2d)
                weight = dequantized_weight(tensors["codes"], layer.weight_step.detach())
                layer.weight = nn.Parameter(weight, requires_grad=False)
                layer.weights_on_grid = True
                for field, factor in zip(BRANCH_FIELDS, layer.branch or (), strict=False):
                    factor.copy_(tensors[field])
            layer.activation_step.copy_(tensors["activation_step"])

    @torch.no_grad()
    def runs_alone(self, name: str) -> bool:
        """Return whether a module, run by itself on its captured arguments, answers as in the network."""
        batch = next(self.items.batches(1, self.device))
        assert batch.item is not None
        inputs, outputs = self._cache(), self._cache()
        self._capture(self.teacher, name, batch, inputs, outputs)
        args, kwargs = to_device(inputs[batch.item], self.device)
        expected = to_device(outputs[batch.item], self.device)
        inputs.free()
        outputs.free()
        try:
            again = self.teacher.get_submodule(name)(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError):
            return False
        return noise_to_signal(again, expected) < 1e-6

    @torch.no_grad()
    def _capture(
        self,
        network: nn.Module,
        name: str,
        batch: Batch,
        inputs: ActivationCache,
        outputs: ActivationCache | None = None,
    ) -> None:
        """Capture a module's arguments, and its outputs if asked for, in a run that stops there."""
        assert batch.item is not None
        item = batch.item
        see_output = None if outputs is None else lambda output: outputs.add(output, item)
        with stopping_at(network.get_submodule(name), lambda value: inputs.add(value, item), see_output):
            if self._entered:
                self.set_batch(batch)
                args, kwargs = to_device(self._arguments[-1][id(network)][item], self.device)
                network.get_submodule(self._entered[-1].name)(*args, **kwargs)
            else:
                prediction(network, batch)

    @torch.no_grad()
    def _enter(self, block: Block) -> None:
        """Capture the arguments of the modules that enclose a block, in each network, if they are missing."""
        while self._entered and self._entered[-1] not in block.enclosing:
            self._entered.pop()
            for captured in self._arguments.pop().values():
                captured.free()
        for tap in block.enclosing[len(self._entered) :]:
            arguments = {id(network): self._cache() for network in self._networks}
            for network in self._networks:
                for batch in self.items.batches(CAPTURE_BATCH, self.device):
                    self._capture(network, tap.name, batch, arguments[id(network)])
            self._entered.append(tap)
            self._arguments.append(arguments)

    def _cache(self) -> ActivationCache:
        return ActivationCache(self.items.count, self.pool)


def _trained_tensors(layer: InputQuantizer) -> dict[str, Tensor]:
    tensors = {"activation_step": layer.activation_step.detach().cpu().clone()}
    if isinstance(layer, QuantLinear | QuantConv2d) and layer.weights_on_grid:
        quantizer = WeightQuantizer(layer.weight_step.detach(), layer.weight_grid)
        tensors["codes"] = quantizer.codes(layer.weight.detach()).to(torch.int8).cpu()
        factors = zip(BRANCH_FIELDS, layer.branch or (), strict=False)
        tensors |= {field: factor.detach().cpu().clone() for field, factor in factors}
    return tensors
