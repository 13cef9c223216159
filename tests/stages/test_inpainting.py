"""Inpainting models: their context in all stages, and exports that diffusers' pipelines inpaint with."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionInpaintPipeline
from torch.nn import functional as F

from sdquant_cli.artifacts.text_embeds import TextEmbeds
from sdquant_cli.models.context import BOXES, box_contexts
from sdquant_cli.models.load import find_model
from sdquant_cli.models.noise import initial_noise, step_generators
from sdquant_cli.types import Kind
from tests.conftest import Sdquant
from tests.runtime.exports import psnr, quiet

SIZE = (64, 64)
STEPS = 3


@pytest.fixture(scope="module", params=["sd-inpainting", "sdxl-inpainting"])
def run(request, tiny, tmp_path_factory):
    """A store with latents of two prompts, and a static state."""
    root = tmp_path_factory.mktemp(request.param)
    run, prompts = Sdquant(root / "store"), root / "prompts.txt"
    prompts.write_text("a big red circle\na small cyan star\n")
    words = ("--prompts", prompts, "--model", tiny(request.param), "--per-prompt", 2)
    run("sample", *words, "--steps", STEPS, "--guidance-scale", 4)
    run("calibrate", "--method", "rtn", "--bits", "w8a8", "--activations", "per-step")
    return run


def model_of(run):
    return find_model(run.opened().need(Kind.LATENTS).spec.setting.model.source)


def contexts(run):
    model = model_of(run)
    return box_contexts(model.vae(), SIZE, model.latent_factor, 0, range(2))


def test_latents_have_the_context_of_their_prompt(run):
    latents = run.opened().need(Kind.LATENTS)
    assert latents.spec.setting.context == BOXES
    x, prompt = torch.from_numpy(latents.read("x")), latents.read("prompt_index")
    assert x.shape == (4, 9, 8, 8)
    assert torch.equal(x[:, 4:], contexts(run)[prompt].half())
    run("sensitivity")
    assert run.opened().need(Kind.SENSITIVITY).facts.samples == 4


def test_diffusers_inpaints_what_generate_draws(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SDQUANT_ENGINE", "dequantized")
    run("export", "--output", tmp_path / "model")
    run("verify", tmp_path / "model")
    run("generate", "--prompts", run.store.parent / "prompts.txt", "--engine", "dequantized")
    images = run.opened().resolve("images/latest-quantized")
    embeds = run.workspace().input(TextEmbeds, images, "text-embeds")
    texts = embeds.texts(model_of(run), images.spec.setting)[torch.tensor([0, *embeds.index()])].to("cpu")
    pooled = {}
    if texts.pooled is not None:
        pooled["pooled_prompt_embeds"] = texts.pooled[1:]
        pooled["negative_pooled_prompt_embeds"] = texts.pooled[:1].repeat(2, 1)
    mask, masked = contexts(run).split((1, 4), dim=1)
    pipeline = quiet(DiffusionPipeline.from_pretrained(tmp_path / "model"))
    assert "Inpaint" in type(pipeline).__name__
    drawn = pipeline(
        prompt_embeds=texts.tokens[1:],
        negative_prompt_embeds=texts.tokens[:1].repeat(2, 1, 1),
        image=torch.zeros(2, 3, *SIZE),
        mask_image=F.interpolate(mask, SIZE),
        masked_image_latents=masked,
        strength=1.0,
        latents=initial_noise((4, 8, 8), 0, range(2)),
        generator=step_generators(0, range(2)),
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        height=SIZE[0],
        width=SIZE[1],
        output_type="np",
        **pooled,
    ).images
    assert psnr((drawn * 255).round(), images.read("image")) > 40
    other = pipeline(
        "a big red circle",
        image=torch.zeros(1, 3, *SIZE),
        mask_image=torch.ones(1, 1, *SIZE),
        num_inference_steps=STEPS,
        height=SIZE[0],
        width=SIZE[1],
        output_type="np",
    ).images
    assert np.isfinite(other).all()


@pytest.mark.parametrize("run", ["sd-inpainting"], indirect=True)
@pytest.mark.parametrize(
    "words",
    [
        ("--method", "serial-to-parallel", "--activations", "per-step", "--iterations", 2),
        ("--method", "serial", "--iterations", 4),
        ("--method", "parallel", "--iterations", 1),
        ("--method", "q-diffusion", "--iterations", 1),
        ("--method", "rtn", "--tables", "progressive", "--correction"),
    ],
)
def test_every_source_of_items_has_the_context(run, words):
    run("calibrate", "--bits", "w8a8", "--batch-size", 2, *words)
    run("generate", "--prompts", run.store.parent / "prompts.txt", "--engine", "simulated")
    measured = run("evaluate", "--no-floor", "--drift", "--drift-prompts", 1, "--json").stdout
    assert json.loads(measured)["metrics"]["psnr"]["mean"] > 20
    assert min(run.opened().need(Kind.DRIFT).facts.prediction_sqnr) > 10


@pytest.mark.parametrize("run", ["sd-inpainting"], indirect=True)
def test_a_single_file_of_an_inpainting_model(run, tmp_path):
    run("calibrate", "--method", "rtn", "--bits", "w8a8")
    run("export", "--format", "single-file", "--output", tmp_path / "x.safetensors")
    pipeline = StableDiffusionInpaintPipeline.from_single_file(
        str(tmp_path / "x.safetensors"),
        config=str(model_of(run).folder),
        local_files_only=True,
        safety_checker=None,
    )
    assert pipeline.unet.config.in_channels == 9


@pytest.mark.parametrize(
    ("name", "channels", "supported"), [("sd-inpainting", 4, 9), ("sd-inpainting", 8, 9), ("sd-v1-4", 9, 4)]
)
def test_channels_of_another_family_are_refused(sdquant, tiny, tmp_path, name, channels, supported):
    folder = shutil.copytree(tiny(name), tmp_path / "model")
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "in_channels": channels}))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\n")
    said = sdquant("sample", "--prompts", prompts, "--model", folder, code=2).stderr
    assert f"in_channels is {channels}; supported: {supported}" in said


def test_three_items_a_latent_are_refused_by_the_pipelines_name(sdquant, tiny, tmp_path):
    folder = shutil.copytree(tiny("sd-v1-4"), tmp_path / "model")
    path = folder / "model_index.json"
    cls = "StableDiffusionInstructPix2PixPipeline"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": cls}))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\n")
    said = sdquant("sample", "--prompts", prompts, "--model", folder, code=2).stderr
    assert f"is a {cls}; supported" in said
