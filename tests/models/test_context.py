"""Masks and pictures of an inpainting model: what they are, and that they follow from a prompt's number."""

import pytest
import torch

from sdquant_cli.models.autoencoder import encode
from sdquant_cli.models.context import box, box_contexts, pink_noise
from sdquant_cli.models.load import find_model
from sdquant_cli.models.noise import generator


@pytest.fixture(scope="module")
def model(tiny):
    return find_model(str(tiny("sd-inpainting")))


def contexts(model, seed, prompts):
    return box_contexts(model.vae(), (64, 128), model.latent_factor, seed, prompts)


def test_they_follow_from_seed_and_number_alone(model):
    both = contexts(model, 0, [4, 7])
    assert both.shape == (2, 5, 8, 16)
    assert torch.equal(both[1:], contexts(model, 0, [7]))
    assert not torch.equal(both[:1], both[1:])
    assert not torch.equal(both, contexts(model, 1, [4, 7]))


def test_a_masked_picture_is_grey_where_the_mask_is_one(model):
    g = generator("context", 0, 4)
    mask, picture = box(8, 16, g), pink_noise(64, 128, g)
    whole = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)
    expected = encode(model.vae(), torch.where(whole == 1, 0.0, picture)[None])
    found = contexts(model, 0, [4])
    assert torch.equal(found[:, :1], mask[None])
    torch.testing.assert_close(found[:, 1:], expected)


def test_boxes_are_of_all_sizes_and_lie_within():
    areas = []
    for seed in range(200):
        mask = box(8, 16, torch.Generator().manual_seed(seed))[0]
        rows, columns = mask.any(1), mask.any(0)
        assert float(mask.sum()) == int(rows.sum()) * int(columns.sum()) > 0
        areas.append(float(mask.mean()))
    assert min(areas) < 0.15
    assert max(areas) > 0.85
    assert box(1, 1, torch.Generator()).tolist() == [[[1.0]]]


def test_noise_is_weaker_the_finer_it_is():
    pictures = torch.stack([pink_noise(64, 64, torch.Generator().manual_seed(seed)) for seed in range(20)])
    assert float(pictures.abs().max()) <= 1
    power = torch.fft.rfft2(pictures).abs().square().mean((0, 1))[0]  # by frequency along the width
    assert power[1] > 4 * power[4] > 16 * power[16] > 0
