"""The embedded model is a Stable Diffusion of SD v1-4's topology that plain diffusers loads."""

import json
from pathlib import Path

import pytest
import torch

from sdquant_cli.models.layers import is_text_fed, quantizable_layers, time_layers
from sdquant_cli.models.load import EMBEDDED_FOLDER, find_model
from sdquant_cli.quant.allocate import extremes
from tests import fakes

PAPER = json.loads((Path(__file__).parents[1] / "data" / "paper_layers.json").read_text())["sd-v1-4"]


def test_it_has_258_quantizable_layers_and_the_papers_26_names(embedded_unet):
    layers = quantizable_layers(embedded_unet)
    names = [*PAPER["sensitive"], *PAPER["insensitive"]]
    assert len(layers) == 258
    assert len(names) == 26
    assert set(names) <= set(layers)
    assert [len(part) for part in extremes(list(layers))] == [13, 13]


def test_it_has_24_time_layers_and_32_text_fed_ones(embedded_unet):
    assert len(time_layers(embedded_unet)) == 24
    assert sum(map(is_text_fed, quantizable_layers(embedded_unet))) == 32
    assert set(time_layers(embedded_unet)).isdisjoint(quantizable_layers(embedded_unet))


def test_it_is_small_and_fp16_and_safetensors_only():
    files = [path for path in EMBEDDED_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16e6
    assert {path.suffix for path in files if path.stat().st_size > 100_000} == {".safetensors"}


def test_the_scheduler_is_sd_v1_4s():
    config = fakes.sampler().config
    wanted = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
    }
    assert {name: config[name] for name in wanted} == wanted


def test_any_text_has_tokens_and_words_of_the_language_are_one_each():
    tokenizer = find_model("shapes").tokenizer()
    assert len(tokenizer("a big red circle left of a small cyan star").input_ids) == 2 + 10
    odd = tokenizer("naïve 猫 \U0001f600 <tag>").input_ids
    assert odd[0] == tokenizer.bos_token_id
    assert odd[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in odd[1:-1]


@pytest.fixture(scope="module")
def drawn_by_diffusers():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    options = {"num_inference_steps": 6, "guidance_scale": 3.0, "output_type": "latent"}
    latents = pipeline("a big red circle on a plain white background", latents=noise, **options).images
    return noise, latents


def encoded(texts):
    """The conditioning of texts, the empty one first."""
    from sdquant_cli.models.conditioning import Conditioning
    from sdquant_cli.models.text import encode

    parts = list(encode(find_model("shapes").text_pipeline(), texts, torch.device("cpu")))
    return Conditioning(torch.cat([part.tokens for part in parts]))


def test_our_loop_draws_what_diffusers_draws(drawn_by_diffusers, embedded_unet):
    from sdquant_cli.models.denoise import denoise
    from sdquant_cli.models.trajectory import Trajectory

    noise, expected = drawn_by_diffusers
    conditioning = encoded(["", "a big red circle on a plain white background"])
    found = denoise(embedded_unet, Trajectory(fakes.sampler(steps=6), noise), conditioning, 3.0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_its_pictures_are_of_the_prompt(drawn_by_diffusers):
    """50 steps of three plain prompts: the background has the colour that the prompt names."""
    from sdquant_cli.models.autoencoder import decode
    from sdquant_cli.models.denoise import denoise
    from sdquant_cli.models.noise import initial_noise
    from sdquant_cli.models.trajectory import Trajectory

    model = find_model("shapes")
    wanted = {"green": (0.12, 0.65, 0.20), "white": (0.97, 0.97, 0.97), "blue": (0.12, 0.28, 0.90)}
    texts = ["", *(f"a small black square on a plain {name} background" for name in wanted)]
    noise = initial_noise((4, 16, 16), 0, range(3))
    conditioning = encoded(texts).guided([1, 2, 3])
    scale = model.defaults.guidance_scale
    latents = denoise(model.denoiser(), Trajectory(fakes.sampler(), noise), conditioning, scale)
    corners = decode(model.vae(), latents)[:, :3, :3].float().mean(dim=(1, 2)) / 255
    assert (corners - torch.tensor(list(wanted.values()))).abs().max() < 0.2
