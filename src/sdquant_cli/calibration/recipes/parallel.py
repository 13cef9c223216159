"""The parallel pipeline (BK-SDM, Kim et al. 2023; Efficiency Meets Fidelity, section 4.1, fig. 2b).

Clean latents of pictures with their captions, noised to a random timestep of the schedule in every
batch. The pictures are the floating-point model's own, so that no data is needed, or a folder's.
"""

from typing import Any

import torch
from torch import Tensor

from ...errors import UsageProblem
from ...models.guidance import batch_conditioning, halves, repeat_for_guidance
from ...models.samplers import is_flow
from ...quant.grid import along_first_axis
from ..items import Batch, shuffled
from ..recipe import BatchContext, Pictures, Recipe


def shares(sampler: Any, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """What picture and noise weigh in the network's input at timesteps (N).

    sqrt(a) and sqrt(1 - a), a the product of alphas (eq. 1, t times), for every sampler: those that work
    with sigmas scale their input to the same. Flow matching: 1 - s and s, s the fraction of time. Raises
    UsageProblem for a sampler that is of neither kind.
    """
    t = timestep.double()
    if is_flow(sampler):
        s = t / sampler.config.num_train_timesteps
        return 1 - s, s
    if not hasattr(sampler, "alphas_cumprod"):
        raise UsageProblem(
            f"--method parallel: {type(sampler).__name__} does not say how pictures are noised; take another "
            f"method, or another --scheduler in `sdquant sample`"
        )
    products: Tensor = sampler.alphas_cumprod.double()
    low = t.floor().long().clamp(0, len(products) - 1)
    a = torch.lerp(products[low], products[(low + 1).clamp(max=len(products) - 1)], t - low)
    return a.sqrt(), (1 - a).sqrt()


def noised(clean: Tensor, noise: Tensor, shares: tuple[Tensor, Tensor]) -> Tensor:
    """Pictures (N,...) with noise, each by its own two shares (N)."""
    signal, deviation = (along_first_axis(share, clean).float() for share in shares)
    return signal * clean + deviation * noise


class NoisedPictures:
    """Shuffled pictures, each at a timestep and with noise of the iteration's own."""

    def __init__(self, context: BatchContext) -> None:
        assert context.pictures is not None
        self._context, self._pictures = context, context.pictures
        self._signal, self._deviation = shares(context.sampler(), context.items.timesteps)  # (rows)

    def batch(self, iteration: int) -> Batch:
        m, pictures = self._context, self._pictures
        picks = shuffled(len(pictures.x), min(m.batch_size, len(pictures.x)), iteration, m.seed)
        g = torch.Generator().manual_seed((m.seed + 1) * 1_000_003 + iteration)
        row = torch.randint(len(m.items.timesteps), (len(picks),), generator=g)
        clean = pictures.x[picks].float()
        noise = torch.randn(clean.shape, generator=g)
        x = noised(clean, noise, (self._signal[row], self._deviation[row]))
        return _batch(x, row, pictures, picks, m)

    def learn(self, prediction: Tensor) -> None:
        """Nothing: the next batch does not depend on it."""


def _batch(x: Tensor, row: Tensor, pictures: Pictures, picks: Tensor, m: BatchContext) -> Batch:
    """The items of noised pictures."""
    row, scale = repeat_for_guidance(row, m.guidance_scale), m.guidance_scale
    return Batch(
        repeat_for_guidance(x, scale).to(m.device),
        m.items.timesteps[row].to(m.device),
        row,
        batch_conditioning(pictures.texts, pictures.text[picks], scale).to(m.device),
        halves=halves(scale),
    )


RECIPE = Recipe(
    name="parallel",
    cites="Kim et al. 2023, BK-SDM; Li, Deng et al. 2024, section 4.1",
    source=NoisedPictures,
    needs_pictures=True,
)
