"""PixArt-Sigma: T5 alone, a mask of tokens, a table with the embedding in it, a variance that is not read."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from sdquant_cli.artifacts.text_embeds import TextEmbeds
from sdquant_cli.artifacts.time_table import TimeTable
from sdquant_cli.models.load import find_model
from sdquant_cli.models.noise import initial_noise, step_generators
from sdquant_cli.runtime.network import packed_layers
from sdquant_cli.types import Kind
from tests.conftest import Sdquant
from tests.runtime.exports import psnr, quiet

STEPS = 3
TEXTS = ("a big red circle", "a small cyan star and another one, much larger than the first")


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A store with latents of two prompts, and a static state."""
    root = tmp_path_factory.mktemp("pixart")
    run, prompts = Sdquant(root / "store"), root / "prompts.txt"
    prompts.write_text("".join(f"{text}\n" for text in TEXTS))
    words = ("--prompts", prompts, "--model", tiny("pixart-sigma"), "--per-prompt", 2)
    run("sample", *words, "--steps", STEPS)
    run("calibrate", "--method", "rtn", "--bits", "w8a8", "--activations", "per-step")
    return run


def test_masks_are_stored_with_the_text(run):
    embeds = run.opened().latest(Kind.TEXT_EMBEDS)
    mask = embeds.read("mask")
    assert mask.shape == embeds.read("embedding").shape[:2] == (3, 300)
    assert (mask.sum(axis=1) < 300).all()
    assert mask[0].sum() < mask[1].sum() < mask[2].sum()
    assert embeds.facts.truncated == 0


def test_the_table_has_the_embedding_too(run, tiny):
    table = run.workspace().need(TimeTable)
    model = find_model(str(tiny("pixart-sigma")))
    assert table.read("table").shape == (STEPS, 7 * 16)
    assert model.time_widths == [6 * 16, 16]


def test_diffusers_draws_what_generate_draws(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SDQUANT_ENGINE", "dequantized")
    run("export", "--output", tmp_path / "model")
    run("verify", tmp_path / "model")
    run("generate", "--prompts", run.store.parent / "prompts.txt", "--engine", "dequantized")
    images = run.opened().resolve("images/latest-quantized")
    setting = images.spec.setting
    embeds = run.workspace().input(TextEmbeds, images, "text-embeds")
    texts = embeds.texts(find_model(setting.model.source), setting).to("cpu")
    index = torch.from_numpy(embeds.index())
    pipeline = quiet(DiffusionPipeline.from_pretrained(tmp_path / "model"))
    assert not [name for name, _ in pipeline.transformer.named_parameters() if "timestep_embedder" in name]
    drawn = pipeline(
        negative_prompt=None,
        prompt_embeds=texts.tokens[index],
        prompt_attention_mask=texts.mask[index],
        negative_prompt_embeds=texts.tokens[:1].repeat(2, 1, 1),
        negative_prompt_attention_mask=texts.mask[:1].repeat(2, 1),
        latents=initial_noise((4, 8, 8), 0, range(2)),
        generator=step_generators(0, range(2)),
        num_inference_steps=STEPS,
        guidance_scale=setting.guidance_scale,
        height=64,
        width=64,
        use_resolution_binning=False,
        output_type="np",
    ).images
    assert psnr((drawn * 255).round(), images.read("image")) > 40
    half = quiet(DiffusionPipeline.from_pretrained(tmp_path / "model", dtype=torch.bfloat16))
    words = {"num_inference_steps": STEPS, "height": 64, "width": 64, "use_resolution_binning": False}
    assert np.isfinite(half(TEXTS[0], **words, output_type="np").images).all()


@pytest.mark.parametrize(
    "words",
    [
        ("--method", "serial-to-parallel", "--activations", "token", "--iterations", 2),
        ("--method", "q-diffusion", "--iterations", 1),
        ("--method", "rtn", "--tables", "progressive", "--correction"),
        ("--method", "rtn", "--activations", "per-step", "--time-path", "quantized"),
    ],
)
def test_methods(run, words):
    run("calibrate", "--bits", "w8a8", "--batch-size", 2, *words)
    run("generate", "--prompts", run.store.parent / "prompts.txt", "--engine", "simulated")
    measured = json.loads(run("evaluate", "--no-floor", "--json").stdout)["metrics"]
    assert measured["psnr"]["mean"] > 20


def test_what_quantize_writes_is_verified(tiny, sdquant, tmp_path):
    sdquant.without_store("quantize", tiny("pixart-sigma"), "--output", tmp_path / "folder")
    sdquant.without_store("verify", tmp_path / "folder")


def test_what_it_cannot_do_is_said(run, tmp_path):
    run("calibrate", "--method", "rtn", "--bits", "w8a8", "--activations", "per-step")
    single, graph = "XL, not PixArt-Sigma", "takes a mask of its tokens, which graphs do not have"
    for form, path, problem in (("single-file", "x.safetensors", single), ("onnx", "x", graph)):
        words = ("--format", form, "--output", tmp_path / path, "--lossy")
        assert problem in run("export", *words, code=2).stderr
    said = run("calibrate", "--method", "rtn", "--attention-bits", 8, code=2).stderr
    assert "--attention-bits 8: PixArt-Sigma has another attention" in said


@pytest.mark.parametrize(
    ("file", "fields", "problem"),
    [
        ("transformer/config.json", {"use_additional_conditions": None}, "use_additional_conditions is null"),
        ("transformer/config.json", {"caption_channels": None}, "caption_channels is null"),
        ("transformer/config.json", {"norm_type": "ada_norm_zero"}, "norm_type is ada_norm_zero"),
        ("model_index.json", {"text_encoder": ["transformers", "CLIPTextModel"]}, "T5EncoderModel"),
    ],
)
def test_folders_of_other_models_are_refused(sdquant, tiny, run, tmp_path, file, fields, problem):
    folder = shutil.copytree(tiny("pixart-sigma"), tmp_path / "model")
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    words = ("--prompts", run.store.parent / "prompts.txt", "--model", folder)
    assert problem in sdquant("sample", *words, code=2).stderr


def test_the_class_of_older_folders_is_read(sdquant, tiny, run, tmp_path):
    folder = shutil.copytree(tiny("pixart-sigma"), tmp_path / "model")
    path = folder / "model_index.json"
    older = {"transformer": ["diffusers", "Transformer2DModel"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **older}))
    sdquant("sample", "--prompts", run.store.parent / "prompts.txt", "--model", folder, "--steps", 2)
    sdquant("calibrate", "--method", "rtn", "--bits", "w8a8")
    sdquant("export", "--output", tmp_path / "export")
    transformer = DiffusionPipeline.from_pretrained(tmp_path / "export").transformer
    assert type(transformer).__name__ == "PixArtTransformer2DModel"
    assert len(packed_layers(transformer)) == len(find_model(str(folder)).layer_shapes)
