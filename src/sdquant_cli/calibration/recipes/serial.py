"""The serial pipeline (EfficientDM, He et al. 2023; "Base" in Efficiency Meets Fidelity, table 7).

Fresh prompts and noise in every round; the floating-point model walks its trajectory from the first
timestep to the last, and each call is one update. So a batch holds one timestep, and updates follow
the order of sampling: the oscillation that section 4.1 of the paper describes.

EfficientDM's batch is 2 pictures; here it is the batch of the other methods, for an equal budget. The
rates are slower than theirs, which suit batches of mixed timesteps and draw far worse pictures here.
"""

import torch
from torch import Tensor

from ...models.conditioning import Conditioning, predict
from ...models.guidance import apply_guidance, batch_conditioning, halves, repeat_for_guidance
from ...models.noise import initial_noise, step_generators
from ...models.trajectory import Trajectory
from ..items import Batch, shuffled
from ..recipe import BatchContext, Recipe


class Trajectories:
    """One batch of trajectories at a time, advanced by the floating-point prediction."""

    def __init__(self, context: BatchContext) -> None:
        self._context = context
        self._calls = len(context.sampler().timesteps)
        self._next = -1  # the iteration that the path below is for
        self._path: Trajectory
        self._conditioning: Conditioning

    def batch(self, iteration: int) -> Batch:
        """Call `iteration % calls` of round `iteration // calls`; a round in its middle is replayed."""
        first = iteration - iteration % self._calls
        if iteration == first:
            self._begin(first // self._calls)
        elif self._next != iteration:
            self._begin(first // self._calls)
            for _ in range(iteration - first):
                batch = self._inputs()
                with torch.no_grad():
                    self._advance(predict(self._context.teacher, batch.x, batch.timestep, batch.conditioning))
        self._next = iteration
        return self._inputs()

    def learn(self, prediction: Tensor) -> None:
        self._advance(prediction)
        self._next += 1

    def _begin(self, trajectory: int) -> None:
        m = self._context
        picks = 1 + shuffled(len(m.items.texts) - 1, m.batch_size, trajectory, m.seed)
        places = [trajectory * m.batch_size + i for i in range(len(picks))]
        noise = initial_noise(tuple(m.items.x.shape[1:]), m.seed, places, "trajectories")
        self._path = Trajectory(m.sampler(), noise.to(m.device), step_generators(m.seed, places))
        self._conditioning = batch_conditioning(m.items.texts, picks, m.guidance_scale).to(m.device)

    def _inputs(self) -> Batch:
        scale, table = self._context.guidance_scale, self._context.items.timesteps
        x = repeat_for_guidance(self._path.input(), scale)
        row = (table - float(self._path.timestep)).abs().argmin().repeat(len(x))
        return Batch(x, table[row].to(x.device), row, self._conditioning, halves=halves(scale))

    def _advance(self, prediction: Tensor) -> None:
        self._path.advance(apply_guidance(prediction.float(), self._context.guidance_scale))


RECIPE = Recipe(
    name="serial",
    cites="He et al. 2023, EfficientDM; Li, Deng et al. 2024, section 4.1 and table 7 (Base)",
    source=Trajectories,
    weight_rate=1e-5,
    step_rate=1e-4,
)
