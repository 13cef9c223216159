"""Progressive calibration: each step's activation quantizers from what the quantized steps before it give.

(Tang et al. 2024, PCR.) There every step draws all prompts from the noise again; here their
latents are kept and advance together, one step at a time: the same inputs at a cost linear in the steps.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.conditioning import Conditioning, predict
from ..models.guidance import apply_guidance, batch_conditioning, halves, repeat_for_guidance
from ..models.noise import initial_noise, step_generators
from ..models.schedule import schedule_of
from ..models.trajectory import Trajectory
from ..quant.drop import Drop
from ..types import Ranges
from .block_optimizer import dropping, inputs_rounded_in
from .observer import Observed, activation_tables

Found = dict[str, tuple[Tensor, Tensor]]  # step size and zero-point of each layer at one row


@dataclass(frozen=True)
class StepResult:
    """What one call of the denoiser brought: enough to go on from it."""

    guided: Tensor  # (P,C,h,w) prediction for all prompts
    found: Found | None  # None: the row was found at an earlier call


@dataclass
class Progression:
    """All prompts on their way from noise to picture, in a network whose weights are rounded."""

    network: Any
    sampler: Any  # its timesteps set
    texts: Conditioning  # of P prompts, the unconditional one at 0
    shape: tuple[int, ...]  # (C,h,w) of a latent
    guidance_scale: float
    ranges: Ranges
    seed: int
    at_once: int  # prompts

    def __post_init__(self) -> None:
        self._prompts = len(self.texts) - 1
        self._device = next(self.network.parameters()).device
        self._rows = schedule_of(self.sampler).rows
        noise = initial_noise(self.shape, self.seed, range(self._prompts), "progressive")
        generators = step_generators(self.seed, range(self._prompts))
        self._path = Trajectory(self.sampler, noise.to(self._device), generators)
        parts = inputs_rounded_in(self.network)
        self.layers = {name: part for name, part in parts.items() if len(part.activation_step) > 1}

    @property
    def call(self) -> int:
        """The next call."""
        return self._path.call

    @property
    def latents(self) -> Tensor:
        """Latents (P,C,h,w) of all prompts."""
        return self._path.latents

    @property
    def calls(self) -> int:
        """Calls of a whole trajectory."""
        return len(self._rows)

    @torch.no_grad()
    def advance(self) -> StepResult:
        """Find the quantizers of the next call's row, if it is new, and make the call with them."""
        found = self._observe() if self._rows[self.call] not in self._rows[: self.call] else None
        if found is not None:
            self._install(found)
        passed = StepResult(self._guided(), found)
        self._step(passed.guided)
        return passed

    @torch.no_grad()
    def repeat(self, passed: StepResult) -> None:
        """Take a call that was made before."""
        if passed.found is not None:
            self._install(passed.found)
        self._step(passed.guided.to(self._device))

    def _observe(self) -> Found:
        zeros = torch.zeros(self._prompts, dtype=torch.long)
        observed = Observed(self.layers, zeros, 1, halves(self.guidance_scale))
        with dropping(self.layers.values(), Drop(1.0)):
            self._guided(lambda items: observed.watching(torch.zeros(items, dtype=torch.long)))
        row = self._rows[self.call]
        return {
            name: activation_tables(observed, name, layer.grid_of(row), [torch.arange(1)], self.ranges)
            for name, layer in self.layers.items()
        }

    def _install(self, found: Found) -> None:
        row = self._rows[self.call]
        for name, (step_size, zero) in found.items():
            self.layers[name].activation_step[row] = step_size[0].to(self._device)
            self.layers[name].activation_zero[row] = zero[0].to(self._device)

    def _guided(
        self, around: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext()
    ) -> Tensor:
        """Predictions (P,C,h,w) for all prompts; each batch runs within a context of its number of items."""
        scaled, parts, scale = self._path.input(), [], self.guidance_scale
        for first in range(0, self._prompts, self.at_once):
            x = scaled[first : first + self.at_once]
            index = torch.arange(first + 1, first + 1 + len(x))
            conditioning = batch_conditioning(self.texts, index, scale).to(self._device)
            with around(halves(scale) * len(x)):
                prediction = predict(
                    self.network, repeat_for_guidance(x, scale), self._path.timestep, conditioning
                )
            parts.append(apply_guidance(prediction, scale))
        return torch.cat(parts)

    def _step(self, guided: Tensor) -> None:
        self._path.advance(guided)
