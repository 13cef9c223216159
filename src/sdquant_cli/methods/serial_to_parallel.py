"""Serial-to-parallel calibration (Efficiency Meets Fidelity, section 4.1 and 4.3).

Latents of the floating-point model's own trajectories (the serial half) are drawn at mixed
timesteps in every batch (the parallel half); weights and step sizes of all layers are trained
together so that the quantized UNet's output, and its sensitive layers' features, match.

The paper leaves open the optimizer, the rates, the form of L_sen over layers and whether the
unconditional branch is trained. Chosen here: Adam; one rate for weights and a far smaller one for
step sizes; the mean over layers, each relative to its floating-point energy; both branches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SdquantError
from ..quant.modules import QuantConv2d, QuantLinear
from .items import Batch, Items, shuffled


@contextmanager
def collecting_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within: the outputs of the named modules, by name, refreshed at each run of the network."""
    outputs: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _args: object, output: Tensor) -> None:
            outputs[name] = output

        return keep

    handles = [network.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def output_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L_out: mean squared error of the noise prediction (eq. 11)."""
    return (student - teacher).square().mean()


def feature_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """L_sen: squared error of sensitive layers' outputs over its energy, mean over layers (eq. 12)."""
    terms = [(student[n] - teacher[n]).square().mean() / teacher[n].square().mean() for n in teacher]
    return torch.stack(terms).mean()


@dataclass
class Training:
    """Weights and step sizes in training; a checkpoint is its `state_dict`."""

    student: Any  # a quantized UNet
    teacher: Any  # the floating-point UNet it comes from
    items: Items
    batch_size: int
    seed: int
    sensitive: Sequence[str] = ()
    weight_rate: float = 5e-5
    step_rate: float = 2e-6
    iteration: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        named = list(self.student.named_parameters())
        self.steps = [p for name, p in named if name.endswith(("weight_step", "activation_step"))]
        owners = [m for m in self.student.modules() if isinstance(m, QuantLinear | QuantConv2d)]
        self.weights = [m.weight for m in owners]
        for parameter in (*self.steps, *self.weights):
            parameter.requires_grad_(True)
        groups = [
            {"params": self.weights, "lr": self.weight_rate},
            {"params": self.steps, "lr": self.step_rate},
        ]
        self.optimizer = torch.optim.Adam(groups, fused=True)

    def loss(self, batch: Batch) -> Tensor:
        """L = L_out + L_sen on one batch (section 4.3)."""
        inputs = (batch.x, batch.timestep, batch.context)
        with collecting_outputs(self.teacher, self.sensitive) as wanted, torch.no_grad():
            target = self.teacher(*inputs).sample
        with collecting_outputs(self.student, self.sensitive) as features:
            predicted = self.student(*inputs).sample
        loss = output_loss(predicted, target)
        return loss + feature_loss(features, wanted) if self.sensitive else loss

    def step(self) -> None:
        """One update on one batch of mixed timesteps."""
        device = self.weights[0].device
        picks = shuffled(len(self.items), self.batch_size, self.iteration, self.seed)
        loss = self.loss(self.items.batch(picks, device))
        value = float(loss.detach())
        if value != value or value in (float("inf"), -float("inf")):
            raise SdquantError(
                f"calibration diverged: loss {value} at iteration {self.iteration}; lower the rates"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for step in self.steps:  # a step size is positive
                step.clamp_(min=1e-8)
        self.losses.append(value)
        self.iteration += 1

    def state_dict(self) -> dict[str, object]:
        return {
            "parameters": [p.detach() for p in (*self.weights, *self.steps)],
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "losses": self.losses,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        saved: Sequence[Tensor] = state["parameters"]  # type: ignore[assignment]
        with torch.no_grad():
            for parameter, value in zip((*self.weights, *self.steps), saved, strict=True):
                parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.iteration, self.losses = int(state["iteration"]), list(state["losses"])  # type: ignore[call-overload]
