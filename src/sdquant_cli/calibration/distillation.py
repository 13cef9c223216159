"""Distillation of a quantized UNet from the floating-point one: the loop that trained methods share.

Weights (or their low-rank updates) are trained by Adam. Scales are trained by Adam in their logarithm: a
scale moves by a relative rate, whether it belongs to a 4-bit or a 16-bit grid, and stays positive. Adam
ignores constant factors of a gradient, so LSQ's gradient scale has no place here.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SdquantError
from ..manifests import LossSpec, TrainSpec
from ..quant.grid import fineness
from ..quant.low_rank import LowRankUpdate
from ..quant.modules import QuantConv2d, QuantInput, QuantLinear
from ..quant.oscillation import Oscillation
from ..ranks import add
from ..types import Train
from .checkpoints import State
from .items import Batch, prediction
from .losses import collecting_outputs, energies, feature_loss, guided_loss, output_loss
from .shares import Share, join, shares
from .sources import Source
from .teacher import Teacher
from .zero_points import TrainedZeroPoints


@dataclass(frozen=True)
class LossTargets:
    """Outputs on which the student is compared, with the weight of each."""

    weights: LossSpec
    sensitive: Sequence[str] = ()  # layers of L_sen
    blocks: Sequence[str] = ()  # modules of the inter-layer distillation
    guidance_scale: float = 1.0

    @property
    def watched(self) -> list[str]:
        """The modules whose outputs some loss compares."""
        return [name for names, _ in self.features for name in names]

    @property
    def output_weight(self) -> float:
        """The weight of L_out."""
        return 1.0 if self.weights.output is None else self.weights.output

    @property
    def features(self) -> list[tuple[Sequence[str], float]]:
        """The groups of modules of each feature loss, with its weight; those of weight 0 are absent."""
        groups = ((self.sensitive, self.weights.sensitive), (self.blocks, self.weights.blocks))
        return [(names, weight) for names, weight in groups if names and weight]


@dataclass
class Training:
    """A student in training. Its `state_dict` is a checkpoint."""

    student: nn.Module  # a quantized UNet, which may share the weights of the teacher
    teacher: Teacher
    source: Source
    targets: LossTargets
    spec: TrainSpec
    iterations: int
    seed: int = 0
    iteration: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layers = _layers_with_weights(self.student)
        self.weights_of = self._trained_weights()
        self.weights = list(chain.from_iterable(self.weights_of.values()))
        self.scales = _trained_scales(self.student)
        self.zero_points = TrainedZeroPoints(self.student) if self.spec.zero_points else None
        for parameter in (*self.weights, *self.scales):
            parameter.requires_grad_(True)
        self.signs = [scale.detach().sign() for scale in self.scales]
        self.log_scales = [scale.detach().abs().log() for scale in self.scales]
        groups = [{"params": parameters, "lr": rate} for parameters, rate in self._rates()]
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self.averages = self._first_averages()
        self.oscillations = self._first_oscillations()

    @property
    def parameters(self) -> list[Tensor]:
        """The trained tensors: weights, the logarithms of scales, and the shares of zero-points."""
        return list(chain.from_iterable(parameters for parameters, _ in self._rates()))

    def _rates(self) -> list[tuple[list[Tensor], float]]:
        """Return the groups of parameters that are not empty, with the rate of each."""
        groups = [*self._weight_rates(), ([*self.log_scales], self.spec.step_rate)]
        if self.zero_points:
            groups.append((list(self.zero_points.shares), self.spec.step_rate))
        return [(parameters, rate) for parameters, rate in groups if parameters]

    def _weight_rates(self) -> list[tuple[list[Tensor], float]]:
        """Return the trained weights in groups of one rate."""
        if not self.spec.rate_by_layer:
            return [([*self.weights], self.spec.weight_rate)]
        groups: dict[int, tuple[list[Tensor], float]] = {}
        for name, weights in self.weights_of.items():
            bits = self.layers[name].weight_grid.bits
            group, _ = groups.setdefault(bits, ([], self.spec.weight_rate * fineness(bits)))
            group += weights
        return list(groups.values())

    def _trained_weights(self) -> dict[str, list[Tensor]]:
        """Give the layers weights to train, apart from the floating-point ones, and return those of each."""
        if self.spec.what is Train.STEPS:
            return {}
        if self.spec.what is Train.LOW_RANK:
            return self._low_rank_updates()
        weights: dict[str, list[Tensor]] = {}
        for name, layer in self.layers.items():
            layer.weight = nn.Parameter(layer.weight.detach().float().clone())
            weights[name] = [layer.weight, *(layer.branch or ())]
        return weights

    def _low_rank_updates(self) -> dict[str, list[Tensor]]:
        assert self.spec.rank is not None
        g, device = torch.Generator().manual_seed(self.seed), next(self.student.parameters()).device
        factors: dict[str, list[Tensor]] = {}
        for name, layer in self.layers.items():
            update = LowRankUpdate(layer.weight.shape, self.spec.rank, g, device)
            layer.weight_transform = update
            factors[name] = [update.up, update.down]
        return factors

    def _first_averages(self) -> list[Tensor]:
        if not self.spec.averaging:
            return []
        return [parameter.detach().clone() for parameter in self.parameters]

    def _first_oscillations(self) -> list[Oscillation]:
        if not self.spec.freezing:
            return []
        return [Oscillation(m.weight, m.weight_step, m.weight_grid) for m in self.layers.values()]

    def loss(self, share: Share) -> tuple[Tensor, Tensor]:
        """Return the loss on a rank's share of a batch, and the floating-point prediction."""
        batch = share.batch
        targets, answer = self.targets, self.teacher.answer(batch)
        energy = share.averages(energies(answer.features))
        target = answer.prediction
        amp = torch.autocast(batch.x.device.type, torch.bfloat16, enabled=bool(self.spec.amp))
        with collecting_outputs(self.student, targets.watched) as outputs, amp:
            predicted = prediction(self.student, batch)
        loss = predicted.new_zeros(())
        if targets.output_weight:
            loss = targets.output_weight * output_loss(predicted, target)
        for names, weight in targets.features:
            loss = loss + weight * feature_loss(outputs, answer.features, names, energy)
        if targets.weights.guided:
            loss = loss + targets.weights.guided * guided_loss(predicted, target, targets.guidance_scale)
        return loss, target

    def step(self) -> None:
        """Make one update; its batch comes in as many parts as `accumulate` says, shared by all ranks."""
        batch = self.source.batch(self.iteration)
        self.optimizer.zero_grad(set_to_none=True)
        for scale in self.scales:
            scale.grad = None
        if self.zero_points:
            self.zero_points.forget_gradients()
        losses, predictions, taken = [], [], []
        with tensor_float(bool(self.spec.tf32)):
            for share in shares(batch, self.spec.accumulate):
                loss, predicted = self.loss(share)
                (loss * share.of_batch).backward()
                losses.append(loss.detach().double() * share.of_batch)
                predictions.append(predicted)
                taken.append(share)
        total = sum(losses, torch.zeros_like(losses[0]))
        add([*self._gradients, total])
        value, finite = torch.stack([total, self._gradients_are_finite()]).tolist()  # waits for the device
        if not (math.isfinite(value) and finite):
            raise SdquantError(self._diagnosis(batch, value))
        self._update()
        self.source.learn(join(predictions, taken, len(batch.x)))
        self.losses.append(value)
        self.iteration += 1

    @torch.no_grad()
    def _update(self) -> None:
        """Apply Adam at rates that fall from the spec's to zero in a cosine, then all that depends on it."""
        decay = 0.5 * (1 + math.cos(math.pi * self.iteration / self.iterations))
        for group, (_, rate) in zip(self.optimizer.param_groups, self._rates(), strict=True):
            group["lr"] = rate * decay
        for log_scale, scale in zip(self.log_scales, self.scales, strict=True):  # ds = s d(log s)
            log_scale.grad = None if scale.grad is None else scale.grad * scale
        if self.zero_points:
            self.zero_points.give_gradients()
        self.optimizer.step()
        self._write_quantizers()
        for layer, oscillation in zip(self.layers.values(), self.oscillations, strict=False):
            oscillation.update(layer.weight, layer.weight_step, self.spec.freezing)
        if self.averages:
            keep = min(self.spec.averaging, (1 + self.iteration) / (10 + self.iteration))
            torch._foreach_lerp_(self.averages, self.parameters, 1 - keep)

    def _write_quantizers(self) -> None:
        if self.zero_points:
            self.zero_points.write()
        scales = torch._foreach_mul(torch._foreach_exp(self.log_scales), self.signs)
        torch._foreach_copy_([scale.detach() for scale in self.scales], scales)

    @torch.no_grad()
    def finish(self) -> None:
        """Replace the parameters by their averages, if the spec asks for averaging."""
        for parameter, average in zip(self.parameters, self.averages, strict=False):
            parameter.copy_(average)
        self._write_quantizers()

    @property
    def _gradients(self) -> list[Tensor]:
        """The gradients of the trained tensors that have one."""
        gradients = [p.grad for p in (*self.weights, *self.scales) if p.grad is not None]
        return gradients + (self.zero_points.gradients if self.zero_points else [])

    def _gradients_are_finite(self) -> Tensor:
        """Return 1.0 or 0.0, on the device."""
        gradients = self._gradients
        if not gradients:
            return torch.ones((), dtype=torch.float64, device=self.parameters[0].device)
        return torch.stack(torch._foreach_norm(gradients)).isfinite().all().double()

    @torch.no_grad()
    def _diagnosis(self, batch: Batch, value: float) -> str:
        """Return a message naming the layer and timestep of the first number that is not finite."""
        with collecting_outputs(self.student, list(self.layers)) as outputs:
            prediction(self.student, batch)
        where = "in the gradients" if math.isfinite(value) else "in the loss"
        for name, output in outputs.items():  # in the order they ran
            bad = ~output.flatten(1).isfinite().all(1)
            if bool(bad.any()):
                where = f"first in layer {name}"
                if len(bad) == len(batch.timestep):
                    where += f" at timestep {float(batch.timestep[bad][0]):g}"
                break
        return (
            f"calibration diverged at iteration {self.iteration}: loss {value:g}, {where}; the last "
            f"checkpoint is kept; lower --weight-rate or --step-rate"
        )

    def state_dict(self) -> State:
        """Return everything that the training needs to continue."""
        return {
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages,
            "oscillations": [oscillation.state() for oscillation in self.oscillations],
            "iteration": self.iteration,
            "losses": self.losses,
        }

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """Continue from the result of `state_dict`."""
        for parameter, value in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(value)
        self._write_quantizers()
        for average, value in zip(self.averages, state["averages"], strict=True):
            average.copy_(value)
        for oscillation, saved in zip(self.oscillations, state["oscillations"], strict=True):
            oscillation.restore(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration, self.losses = int(state["iteration"]), list(state["losses"])


@contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """Let a GPU multiply fp32 with 10 bits of mantissa (TF32), or keep it from that, within the context."""
    backends: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, was_allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = was_allowed


def _layers_with_weights(network: nn.Module) -> dict[str, QuantLinear | QuantConv2d]:
    return {name: m for name, m in network.named_modules() if isinstance(m, QuantLinear | QuantConv2d)}


def _trained_scales(network: nn.Module) -> list[nn.Parameter]:
    """Return the scales of all layers, weight before activation, then those of attention's products.

    Those found at run time are not among them.
    """
    scales: list[nn.Parameter] = []
    for layer in _layers_with_weights(network).values():
        scales += (layer.weight_step, layer.activation_step)
    scales += [m.activation_step for m in network.modules() if isinstance(m, QuantInput)]
    return [scale for scale in scales if len(scale)]
