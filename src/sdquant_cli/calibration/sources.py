"""Sources of training batches: stored latents, noised images, or trajectories that are drawn as they go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import UsageProblem
from ..models.conditioning import Conditioning, predict
from ..models.guidance import apply_guidance, batch_conditioning, halves, repeat_for_guidance
from ..models.noise import initial_noise, step_generators
from ..models.samplers import Sampler, is_flow
from ..models.trajectory import Trajectory
from ..quant.grid import along_first_axis
from .items import Batch, Items, shuffled


class Source(Protocol):
    """A source of batches. Each batch follows from the iteration alone, so that runs resume exactly."""

    @property
    def learns(self) -> bool:
        """Whether the next batch depends on predictions."""

    def batch(self, iteration: int) -> Batch:
        """Return the inputs of one update."""

    def learn(self, prediction: Tensor) -> None:
        """Take the floating-point network's prediction on the last batch."""


@dataclass(frozen=True)
class Pictures:
    """Clean latents with the text of each."""

    x: Tensor  # (N,C,h,w), scaled as the UNet expects
    text: Tensor  # (N) index into the texts
    texts: Conditioning  # of P prompts, the unconditional one at 0


@dataclass(frozen=True)
class BatchContext:
    """Everything that a source may draw on."""

    items: Items
    batch_size: int
    seed: int
    device: torch.device
    teacher: nn.Module | None  # None: its answers to all items are cached
    sampler: Callable[[], Sampler]  # returns a new one, its timesteps set
    guidance_scale: float
    pictures: Pictures | None = None


class MixedLatents:
    """Stored latents of all timesteps, shuffled: every epoch visits each once."""

    learns = False

    def __init__(self, context: BatchContext) -> None:
        self._context = context

    def batch(self, iteration: int) -> Batch:
        """Return the latents of an iteration."""
        c = self._context
        return c.items.batch(shuffled(len(c.items), c.batch_size, iteration, c.seed), c.device)

    def learn(self, prediction: Tensor) -> None:
        """Do nothing: the latents are stored."""


class NoisedPictures:
    """Shuffled pictures, each at a random timestep with noise that depends on the iteration."""

    learns = False

    def __init__(self, context: BatchContext) -> None:
        assert context.pictures is not None
        self._context, self._pictures = context, context.pictures
        self._signal, self._deviation = shares(context.sampler(), context.items.timesteps)  # (rows)

    def batch(self, iteration: int) -> Batch:
        """Return the noised pictures of an iteration."""
        c, pictures = self._context, self._pictures
        picks = shuffled(len(pictures.x), min(c.batch_size, len(pictures.x)), iteration, c.seed)
        g = torch.Generator().manual_seed((c.seed + 1) * 1_000_003 + iteration)
        row = torch.randint(len(c.items.timesteps), (len(picks),), generator=g)
        clean = pictures.x[picks].float()
        noise = torch.randn(clean.shape, generator=g)
        x = add_noise(clean, noise, (self._signal[row], self._deviation[row]))
        if (context := c.items.context(picks)) is not None:
            x = torch.cat([x, context], dim=1)
        scale = c.guidance_scale
        row = repeat_for_guidance(row, scale)
        return Batch(
            repeat_for_guidance(x, scale).to(c.device),
            c.items.timesteps[row].to(c.device),
            row,
            batch_conditioning(pictures.texts, pictures.text[picks], scale).to(c.device),
            halves=halves(scale),
        )

    def learn(self, prediction: Tensor) -> None:
        """Do nothing: the next batch does not depend on the prediction."""


def shares(sampler: Sampler, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of picture and noise in the network's input at timesteps (N): (N) each.

    sqrt(a) and sqrt(1 - a), a the product of alphas (Efficiency Meets Fidelity, eq. 1, t times), for every
    sampler: those that work with sigmas scale their input to the same. Flow matching: 1 - s and s, s the
    fraction of time. Raises UsageProblem for a sampler of neither kind.
    """
    t = timestep.double()
    if is_flow(sampler):
        s = t / sampler.config["num_train_timesteps"]
        return 1 - s, s
    products: Tensor | None = getattr(sampler, "alphas_cumprod", None)
    if products is None:
        raise UsageProblem(
            f"--method parallel: {type(sampler).__name__} does not say how pictures are noised; choose "
            f"another method, or another --scheduler in `sdquant sample`"
        )
    products = products.double()
    low = t.floor().long().clamp(0, len(products) - 1)
    a = torch.lerp(products[low], products[(low + 1).clamp(max=len(products) - 1)], t - low)
    return a.sqrt(), (1 - a).sqrt()


def add_noise(clean: Tensor, noise: Tensor, shares: tuple[Tensor, Tensor]) -> Tensor:
    """Return pictures (N,...) with noise, each by its own two factors (N)."""
    signal, deviation = shares
    return (
        along_first_axis(signal, clean).float() * clean + along_first_axis(deviation, noise).float() * noise
    )


class TrajectoryBatches:
    """One batch of trajectories at a time, advanced by the floating-point prediction."""

    learns = True

    def __init__(self, context: BatchContext) -> None:
        self._context = context
        self._calls = len(context.sampler().timesteps)
        self._next = -1  # the iteration that the trajectory below has come to
        self._path: Trajectory
        self._conditioning: Conditioning

    def batch(self, iteration: int) -> Batch:
        """Return call `iteration % calls` of round `iteration // calls`; an interrupted round is replayed."""
        first = iteration - iteration % self._calls
        if iteration == first:
            self._begin(first // self._calls)
        elif self._next != iteration:
            self._begin(first // self._calls)
            for _ in range(iteration - first):
                self._replay()
        self._next = iteration
        return self._inputs()

    def learn(self, prediction: Tensor) -> None:
        """Advance the trajectories by a prediction."""
        self._advance(prediction)
        self._next += 1

    def _begin(self, trajectory: int) -> None:
        c = self._context
        picks = 1 + shuffled(len(c.items.texts) - 1, c.batch_size, trajectory, c.seed)
        indices = range(trajectory * c.batch_size, trajectory * c.batch_size + len(picks))
        noise = initial_noise(c.items.latent_shape, c.seed, indices, "trajectories").to(c.device)
        context = c.items.context(torch.tensor(indices))
        context = None if context is None else context.to(c.device)
        self._path = Trajectory(c.sampler(), noise, step_generators(c.seed, indices), context)
        self._conditioning = batch_conditioning(c.items.texts, picks, c.guidance_scale).to(c.device)

    @torch.no_grad()
    def _replay(self) -> None:
        teacher, batch = self._context.teacher, self._inputs()
        assert teacher is not None
        self._advance(predict(teacher, batch.x, batch.timestep, batch.conditioning))

    def _inputs(self) -> Batch:
        scale, timesteps = self._context.guidance_scale, self._context.items.timesteps
        x = repeat_for_guidance(self._path.input(), scale)
        row = (timesteps - float(self._path.timestep)).abs().argmin().repeat(len(x))
        return Batch(x, timesteps[row].to(x.device), row, self._conditioning, halves=halves(scale))

    def _advance(self, prediction: Tensor) -> None:
        self._path.advance(apply_guidance(prediction.float(), self._context.guidance_scale))
