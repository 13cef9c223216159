"""Progressive calibration: activation quantizers of each timestep, from the quantized steps before it.

(Tang et al. 2024, PCR.) There every step draws all prompts from the noise again; here the latents of all
prompts are kept and advance together, one step at a time: the same inputs at a cost linear in the steps.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.conditioning import Conditioning, predict
from ..models.guidance import apply_guidance, batch_conditioning, halves, repeat_for_guidance
from ..models.noise import initial_noise, step_generators
from ..models.samplers import Sampler
from ..models.schedule import schedule_of
from ..models.trajectory import Trajectory
from ..quant.drop import Drop
from ..types import Ranges
from .block_optimizer import dropping, input_quantizers
from .observer import Observations, activation_tables

PROMPTS_PER_RUN = 8

RowQuantizers = dict[str, tuple[Tensor, Tensor]]  # scale and zero-point of each layer at one row


@dataclass(frozen=True)
class StepResult:
    """The result of one call of the denoiser: enough to continue from it."""

    guided: Tensor  # (P,C,h,w) prediction for all prompts
    quantizers: RowQuantizers | None  # None: an earlier call had the same row


@dataclass
class Progression:
    """The trajectories of all prompts in a network whose weights are rounded."""

    network: nn.Module
    sampler: Sampler  # its timesteps set
    texts: Conditioning  # of P prompts, the unconditional one at 0
    shape: tuple[int, ...]  # (C,h,w) of a latent
    guidance_scale: float
    ranges: Ranges
    seed: int
    prompts_per_run: int = PROMPTS_PER_RUN
    context: Tensor | None = None  # (P - 1,X,h,w), further channels of the network's input

    def __post_init__(self) -> None:
        self._prompts = len(self.texts) - 1
        self._device = next(self.network.parameters()).device
        self._rows = schedule_of(self.sampler).rows
        noise = initial_noise(self.shape, self.seed, range(self._prompts), "progressive")
        generators = step_generators(self.seed, range(self._prompts))
        context = None if self.context is None else self.context.to(self._device)
        self._path = Trajectory(self.sampler, noise.to(self._device), generators, context)
        quantizers = input_quantizers(self.network)
        self.layers = {name: part for name, part in quantizers.items() if len(part.activation_step) > 1}

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
        """The number of calls of a whole trajectory."""
        return len(self._rows)

    @torch.no_grad()
    def advance(self) -> StepResult:
        """Find the quantizers of the next call's row, if it is new, and make the call with them."""
        quantizers = None
        if self._rows[self.call] not in self._rows[: self.call]:
            quantizers = self._row_quantizers()
            self._install(quantizers)
        result = StepResult(self._guided(), quantizers)
        self._step(result.guided)
        return result

    @torch.no_grad()
    def repeat(self, result: StepResult) -> None:
        """Advance by a call that was made before."""
        if result.quantizers is not None:
            self._install(result.quantizers)
        self._step(result.guided.to(self._device))

    def _step(self, guided: Tensor) -> None:
        """Advance the latents (P,C,h,w) by predictions of the same shape."""
        self._path.advance(guided)

    def _row_quantizers(self) -> RowQuantizers:
        """Observe the next call with unquantized activations, and return the quantizers of its row."""
        zeros = torch.zeros(self._prompts, dtype=torch.long)
        smoothings = {name: layer.smoothing for name, layer in self.layers.items()}
        observed = Observations(self.layers, zeros, 1, halves(self.guidance_scale), smoothings)
        with dropping(self.layers.values(), Drop(1.0)):
            self._guided(lambda items: observed.watching(torch.zeros(items, dtype=torch.long)))
        row, window = self._rows[self.call], [torch.arange(1)]
        quantizers = {}
        for name, layer in self.layers.items():
            quantizers[name] = activation_tables(observed, name, layer.grid_of(row), window, self.ranges)
        return quantizers

    def _install(self, quantizers: RowQuantizers) -> None:
        row = self._rows[self.call]
        for name, (scale, zero) in quantizers.items():
            self.layers[name].activation_step[row] = scale[0].to(self._device)
            self.layers[name].activation_zero[row] = zero[0].to(self._device)

    def _guided(
        self, around: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext()
    ) -> Tensor:
        """Return predictions (P,C,h,w) for all prompts.

        Each batch runs within the context that `around` makes for its number of items.
        """
        scaled, parts, scale = self._path.input(), [], self.guidance_scale
        for first in range(0, self._prompts, self.prompts_per_run):
            x = scaled[first : first + self.prompts_per_run]
            index = torch.arange(first + 1, first + 1 + len(x))
            conditioning = batch_conditioning(self.texts, index, scale).to(self._device)
            inputs = repeat_for_guidance(x, scale)
            with around(len(inputs)):
                prediction = predict(self.network, inputs, self._path.timestep, conditioning)
            parts.append(apply_guidance(prediction, scale))
        return torch.cat(parts)
