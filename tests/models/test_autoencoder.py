"""Latents to images: how many are decoded together."""

from types import SimpleNamespace

import pytest
import torch

from sdquant_cli.errors import SdquantError
from sdquant_cli.models.autoencoder import decode


class Vae:
    """An autoencoder that shows the first three channels, and keeps the sizes of what it is given."""

    config = SimpleNamespace(scaling_factor=2.0, get=lambda name: None)

    def __init__(self):
        self.batches = []

    def decode(self, latents):
        self.batches.append(len(latents))
        return SimpleNamespace(sample=latents[:, :3])


@pytest.mark.parametrize(
    ("cuda", "side", "batches"),
    [(False, 8, [1] * 5), (True, 64, [4, 1]), (True, 128, [1] * 5), (True, 8, [5])],
)
def test_images_are_decoded_together_on_a_gpu_alone(monkeypatch, cuda, side, batches):
    latents = torch.linspace(-2, 2, 5).view(5, 1, 1, 1).expand(5, 4, side, side)
    expected = ((latents[:, :3] / 2).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    monkeypatch.setattr(torch.Tensor, "is_cuda", cuda)
    vae = Vae()
    assert torch.equal(decode(vae, latents), expected.permute(0, 2, 3, 1))
    assert vae.batches == batches


def test_an_image_that_is_not_finite_is_named():
    latents = torch.zeros(3, 4, 8, 8)
    latents[1] = torch.nan
    with pytest.raises(SdquantError, match="picture 11 is not finite"):
        decode(Vae(), latents, first=10)
