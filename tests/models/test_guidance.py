"""Embeddings of a guidance scale, against diffusers' own."""

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from sdquant_cli.models.guidance import embed_scale


@pytest.mark.parametrize("width", [8, 9, 256])
@pytest.mark.parametrize("scale", [0.0, 1.0, 7.3, 8.5])
def test_a_scale_is_embedded_as_diffusers_does(scale, width):
    expected = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, torch.tensor(scale - 1).repeat(1), embedding_dim=width
    )
    assert torch.equal(embed_scale(scale, width), expected)
