"""Distillation of a quantized UNet from the floating-point one: the loop that trained methods share.

Weights (or their low-rank updates) are trained by Adam. Step sizes are trained by Adam in their
logarithm: a step size moves by a relative rate, whether it belongs to a 4-bit or a 16-bit grid, and
stays positive. Adam ignores constant factors of a gradient, so LSQ's gradient scale has no place here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SdquantError
from ..manifests import LossSpec, TrainSpec
from ..models.conditioning import predict
from ..quant.low_rank import LowRankUpdate
from ..quant.modules import QuantConv2d, QuantInput, QuantLinear
from ..quant.oscillation import Oscillation
from ..types import Train
from .items import Batch
from .losses import collecting_outputs, feature_loss, guided_loss, output_loss
from .recipe import Source
from .teacher import Teacher


@dataclass(frozen=True)
class LossTargets:
    """What the student is compared on, and how much each counts; L_out counts 1."""

    weights: LossSpec
    sensitive: Sequence[str] = ()  # layers of L_sen
    blocks: Sequence[str] = ()  # modules of the inter-layer distillation
    guidance_scale: float = 1.0

    @property
    def watched(self) -> list[str]:
        chosen = list(self.sensitive) if self.weights.sensitive else []
        return chosen + (list(self.blocks) if self.weights.blocks else [])


@dataclass
class Training:
    """A student in training; a checkpoint is its `state_dict`."""

    student: Any  # a quantized UNet, sharing the weights of the teacher or not
    teacher: Teacher
    source: Source
    targets: LossTargets
    spec: TrainSpec
    iterations: int
    seed: int = 0
    iteration: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layers = {
            name: m for name, m in self.student.named_modules() if isinstance(m, QuantLinear | QuantConv2d)
        }
        self.weights = self._trained_weights()
        self.steps = [
            p
            for m in self.layers.values()
            for p in (m.weight_step, m.activation_step)
            if isinstance(p, nn.Parameter)
        ]
        self.steps += [m.activation_step for m in self.student.modules() if isinstance(m, QuantInput)]
        for parameter in (*self.weights, *self.steps):
            parameter.requires_grad_(True)
        self.logs = [step.detach().log() for step in self.steps]
        groups = [{"params": p, "lr": rate} for p, rate in self._rates() if p]
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self.averages = [p.detach().clone() for p in self.parameters] if self.spec.averaging else []
        self.oscillations = (
            [Oscillation(m.weight, m.weight_step, m.weight_grid) for m in self.layers.values()]
            if self.spec.freezing
            else []
        )

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained: weights, then the logarithms of step sizes."""
        return [*self.weights, *self.logs]

    def _rates(self) -> list[tuple[list[Tensor], float]]:
        return [([*self.weights], self.spec.weight_rate), ([*self.logs], self.spec.step_rate)]

    def _trained_weights(self) -> list[Tensor]:
        """Parameters of the weights' part; the floating-point weights stay as they are."""
        if self.spec.what is Train.STEPS:
            return []
        if self.spec.what is Train.LOW_RANK:
            assert self.spec.rank is not None
            g, device = torch.Generator().manual_seed(self.seed), next(self.student.parameters()).device
            updates = [LowRankUpdate(m.weight.shape, self.spec.rank, g, device) for m in self.layers.values()]
            for layer, update in zip(self.layers.values(), updates, strict=True):
                layer.weight_transform = update
            return [p for update in updates for p in (update.up, update.down)]
        for layer in self.layers.values():
            layer.weight = nn.Parameter(layer.weight.detach().float().clone())
        return [layer.weight for layer in self.layers.values()]

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss on one batch, and the floating-point prediction."""
        targets, answer = self.targets, self.teacher.answer(batch)
        target, wanted = answer.prediction, answer.features
        amp = torch.autocast(batch.x.device.type, torch.bfloat16, enabled=bool(self.spec.amp))
        with collecting_outputs(self.student, targets.watched) as found, amp:
            predicted = predict(self.student, batch.x, batch.timestep, batch.conditioning)
        loss = output_loss(predicted, target)
        for names, weight in (
            (targets.sensitive, targets.weights.sensitive),
            (targets.blocks, targets.weights.blocks),
        ):
            if names and weight:
                pairs = [{name: outputs[name].float() for name in names} for outputs in (found, wanted)]
                loss = loss + weight * feature_loss(*pairs)
        if targets.weights.guided:
            loss = loss + targets.weights.guided * guided_loss(predicted, target, targets.guidance_scale)
        return loss, target

    def step(self) -> None:
        """One update; its batch in as many parts as `accumulate` says."""
        batch = self.source.batch(self.iteration)
        self.optimizer.zero_grad(set_to_none=True)
        for step in self.steps:
            step.grad = None
        value, targets = 0.0, []
        for part in batch.parts(self.spec.accumulate):
            loss, target = self.loss(part)
            share = len(part.x) / len(batch.x)
            (loss * share).backward()
            value += share * float(loss.detach())
            targets.append(target)
        if not (math.isfinite(value) and self._gradients_are_finite()):
            raise SdquantError(self._diagnosis(batch, value))
        self._update()
        halves = zip(*(target.chunk(batch.halves) for target in targets), strict=True)
        self.source.learn(torch.cat([torch.cat(half) for half in halves]))
        self.losses.append(value)
        self.iteration += 1

    @torch.no_grad()
    def _update(self) -> None:
        """Adam at rates that fall from the spec's to zero in a cosine, then what hangs on the new values."""
        fade = 0.5 * (1 + math.cos(math.pi * self.iteration / self.iterations))
        rates = [rate for parameters, rate in self._rates() if parameters]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * fade
        for log, step in zip(self.logs, self.steps, strict=True):  # ds = s d(log s)
            log.grad = None if step.grad is None else step.grad * step
        self.optimizer.step()
        self._write_steps()
        for layer, oscillation in zip(self.layers.values(), self.oscillations, strict=False):
            oscillation.update(layer.weight, layer.weight_step, self.spec.freezing)
        if self.averages:
            keep = min(self.spec.averaging, (1 + self.iteration) / (10 + self.iteration))
            torch._foreach_lerp_(self.averages, self.parameters, 1 - keep)

    def _write_steps(self) -> None:
        torch._foreach_copy_([step.detach() for step in self.steps], torch._foreach_exp(self.logs))

    @torch.no_grad()
    def finish(self) -> None:
        """Take the averaged values, where values are averaged."""
        for parameter, average in zip(self.parameters, self.averages, strict=False):
            parameter.copy_(average)
        self._write_steps()

    def _gradients_are_finite(self) -> bool:
        gradients = [p.grad for p in (*self.weights, *self.steps) if p.grad is not None]
        return not gradients or bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all())

    @torch.no_grad()
    def _diagnosis(self, batch: Batch, value: float) -> str:
        """Where the first number that is none came from."""
        with collecting_outputs(self.student, list(self.layers)) as outputs:
            predict(self.student, batch.x, batch.timestep, batch.conditioning)
        place = "in the gradients" if math.isfinite(value) else "in the loss"
        for name, output in outputs.items():  # in the order they ran
            bad = ~output.flatten(1).isfinite().all(1)
            if bool(bad.any()):
                where = (
                    f" at timestep {float(batch.timestep[bad][0]):g}"
                    if len(bad) == len(batch.timestep)
                    else ""
                )
                place = f"first in layer {name}{where}"
                break
        return (
            f"calibration diverged at iteration {self.iteration}: loss {value:g}, {place}; the last "
            f"checkpoint is kept; lower --weight-rate or --step-rate"
        )

    def state_dict(self) -> dict[str, object]:
        return {
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages,
            "oscillations": [oscillation.state() for oscillation in self.oscillations],
            "iteration": self.iteration,
            "losses": self.losses,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for parameter, value in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(value)
        self._write_steps()
        for average, value in zip(self.averages, state["averages"], strict=True):
            average.copy_(value)
        for oscillation, saved in zip(self.oscillations, state["oscillations"], strict=True):
            oscillation.restore(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration, self.losses = int(state["iteration"]), list(state["losses"])
