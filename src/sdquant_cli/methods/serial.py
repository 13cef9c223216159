"""The serial pipeline (EfficientDM, He et al. 2023; "Base" in Efficiency Meets Fidelity, table 7).

Fresh prompts and noise in every round; the floating-point model walks its trajectory from the first
timestep to the last, and each call is one update. So a batch holds one timestep, and updates follow
the order of sampling: the oscillation that section 4.1 of the paper describes.

EfficientDM's batch is 2 pictures; here it is the batch of the other methods, for an equal budget. The
rates are slower than theirs, which suit batches of mixed timesteps and draw far worse pictures here.
"""

import torch
from torch import Tensor

from ..models.condition import Condition, predict
from ..models.denoise import scale_input
from ..models.noise import initial_noise, step_generators
from ..models.samplers import step
from .items import Batch, shuffled
from .recipe import Material, Recipe


class Trajectories:
    """One batch of trajectories at a time, advanced by the floating-point prediction."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._calls = len(material.sampler().timesteps)
        self._next = -1  # the iteration that the state below is for
        self._latents = torch.empty(0)
        self._condition: Condition | None = None
        self._generators: list[torch.Generator] = []
        self._sampler: object = None

    def batch(self, iteration: int) -> Batch:
        """Call `iteration % calls` of round `iteration // calls`; a round in its middle is replayed."""
        first = iteration - iteration % self._calls
        if iteration == first:
            self._begin(first // self._calls)
        elif self._next != iteration:
            self._begin(first // self._calls)
            for call in range(iteration - first):
                batch = self._inputs(call)
                teacher = self._material.teacher
                with torch.no_grad():
                    self._advance(call, predict(teacher, batch.x, batch.timestep, batch.condition))
        self._next = iteration
        return self._inputs(iteration - first)

    def learn(self, prediction: Tensor) -> None:
        self._advance(self._next % self._calls, prediction)
        self._next += 1

    def _begin(self, trajectory: int) -> None:
        m = self._material
        picks = 1 + shuffled(len(m.items.texts) - 1, m.batch_size, trajectory, m.seed)
        places = [trajectory * m.batch_size + i for i in range(len(picks))]
        noise = initial_noise(tuple(m.items.x.shape[1:]), m.seed, places, "trajectories")
        self._sampler = m.sampler()
        self._generators = step_generators(m.seed, places)
        self._latents = (noise * getattr(self._sampler, "init_noise_sigma", 1.0)).to(m.device)
        self._condition = m.items.texts.guided(picks).to(m.device)

    def _inputs(self, call: int) -> Batch:
        timestep = self._sampler.timesteps[call]  # type: ignore[attr-defined]
        x = scale_input(self._sampler, self._latents, timestep)
        table = self._material.items.timesteps
        row = (table - float(timestep)).abs().argmin().repeat(2 * len(x))
        assert self._condition is not None
        return Batch(x.repeat(2, 1, 1, 1), table[row].to(x.device), row, self._condition)

    def _advance(self, call: int, prediction: Tensor) -> None:
        without, given = prediction.float().chunk(2)
        guided = without + self._material.guidance_scale * (given - without)
        timestep = self._sampler.timesteps[call]  # type: ignore[attr-defined]
        self._latents = step(self._sampler, guided, timestep, self._latents, self._generators)


RECIPE = Recipe(
    name="serial",
    cites="He et al. 2023, EfficientDM; Li, Deng et al. 2024, section 4.1 and table 7 (Base)",
    source=Trajectories,
    weight_rate=1e-5,
    step_rate=1e-4,
)
