"""The parallel pipeline (BK-SDM, Kim et al. 2023; Efficiency Meets Fidelity, section 4.1, fig. 2b).

Clean latents of pictures with their captions, noised to a random timestep of the schedule in every
batch. The pictures are the floating-point model's own, so that no data is needed, or a folder's.
"""

import torch
from torch import Tensor

from .items import Batch, shuffled
from .recipe import Material, Pictures, Recipe


def noised(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(a) x_0 + sqrt(1 - a) noise (eq. 1, t times), a = product of alphas (N).

    This is the UNet's input for every sampler: those that work with sigmas scale it to the same.
    """
    a = alpha_bar.view(-1, *[1] * (clean.dim() - 1))
    return a.sqrt() * clean + (1 - a).sqrt() * noise


class NoisedPictures:
    """Shuffled pictures, each at a timestep and with noise of the iteration's own."""

    def __init__(self, material: Material) -> None:
        assert material.pictures is not None
        self._material, self._pictures = material, material.pictures
        products: Tensor = material.sampler().alphas_cumprod.double()
        t = material.items.timesteps.double()
        low = t.floor().long().clamp(0, len(products) - 1)
        high = (low + 1).clamp(max=len(products) - 1)
        self._alpha_bar = torch.lerp(products[low], products[high], t - low)  # (rows)

    def batch(self, iteration: int) -> Batch:
        m, pictures = self._material, self._pictures
        picks = shuffled(len(pictures.x), min(m.batch_size, len(pictures.x)), iteration, m.seed)
        g = torch.Generator().manual_seed((m.seed + 1) * 1_000_003 + iteration)
        row = torch.randint(len(m.items.timesteps), (len(picks),), generator=g)
        clean = pictures.x[picks].float()
        x = noised(clean, torch.randn(clean.shape, generator=g), self._alpha_bar[row].float())
        return _paired(x, row, pictures, picks, m)

    def learn(self, prediction: Tensor) -> None:
        """Nothing: the next batch does not depend on it."""


def _paired(x: Tensor, row: Tensor, pictures: Pictures, picks: Tensor, m: Material) -> Batch:
    """Each item without and with its text."""
    text = pictures.text[picks]
    both = torch.cat([torch.zeros_like(text), text])
    row = row.repeat(2)
    return Batch(
        x.repeat(2, 1, 1, 1).to(m.device),
        m.items.timesteps[row].to(m.device),
        row,
        pictures.embeddings[both].float().to(m.device),
    )


RECIPE = Recipe(
    name="parallel",
    cites="Kim et al. 2023, BK-SDM; Li, Deng et al. 2024, section 4.1",
    source=NoisedPictures,
    needs_pictures=True,
)
