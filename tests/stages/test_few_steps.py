"""Distilled models of one to eight steps, with the schedulers that they are published with."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from sdquant_cli.artifacts.text_embeds import TextEmbeds
from sdquant_cli.models.load import find_model
from sdquant_cli.models.noise import initial_noise, step_generators
from sdquant_cli.types import Kind
from tests.runtime.exports import psnr, quiet

TRAILING = {"timestep_spacing": "trailing"}
MODELS = {  # pipeline, scheduler and its fields, steps
    "sd-turbo": ("sd-v2-1", "EulerDiscreteScheduler", {**TRAILING, "prediction_type": "epsilon"}, 1),
    "sdxl-turbo": ("sdxl", "EulerAncestralDiscreteScheduler", TRAILING, 2),
    "sdxl-lightning": ("sdxl", "EulerDiscreteScheduler", TRAILING, 4),
    "sdxl-lightning, one step": (
        *("sdxl", "EulerDiscreteScheduler"),
        *({**TRAILING, "prediction_type": "sample"}, 1),
    ),
}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a big red circle\na small cyan star\n")
    return path


@pytest.fixture
def with_scheduler(tiny, tmp_path):
    """Return a copy of a tiny pipeline with another scheduler in its folder."""

    def make(name, scheduler, fields):
        folder = shutil.copytree(tiny(name), tmp_path / "model")
        for path, changes in (
            (folder / "model_index.json", {"scheduler": ["diffusers", scheduler]}),
            (folder / "scheduler" / "scheduler_config.json", {"_class_name": scheduler, **fields}),
        ):
            path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return folder

    return make


@pytest.mark.parametrize("name", tuple(MODELS))
def test_all_stages_and_an_export_that_draws_the_same(
    sdquant, with_scheduler, prompts, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("SDQUANT_ENGINE", "dequantized")
    pipeline, scheduler, fields, steps = MODELS[name]
    folder = with_scheduler(pipeline, scheduler, fields)
    words = ("--prompts", prompts, "--model", folder, "--steps", steps, "--guidance-scale", 0)
    sdquant("sample", *words)
    table = json.loads(sdquant("precalc-time", "--json").stdout)["facts"]
    assert table["rows"] == steps
    sdquant("sensitivity")
    words = ("--bits", "w8a8", "--mixed", "--activations", "per-step", "--iterations", 2, "--batch-size", 2)
    sdquant("calibrate", *words)
    sdquant("generate", "--prompts", prompts, "--engine", "dequantized")
    measured = json.loads(sdquant("evaluate", "--no-floor", "--json").stdout)["metrics"]
    assert measured["psnr"]["mean"] > 20
    sdquant("export", "--output", tmp_path / "export")
    sdquant("verify", tmp_path / "export")
    images, drawn = draw(sdquant, tmp_path / "export", folder, steps)
    assert psnr(drawn, images) > 40


def draw(run, export, folder, steps):
    """Return what `generate` drew, and what diffusers draws from an export with the same noise and text."""
    images = run.opened().resolve("images/latest-quantized")
    setting, model = images.spec.setting, find_model(str(folder))
    embeds = run.workspace().input(TextEmbeds, images, "text-embeds")
    texts = embeds.texts(model, setting)[torch.from_numpy(embeds.index())].to("cpu")
    pooled = {} if texts.pooled is None else {"pooled_prompt_embeds": texts.pooled}
    pipeline = quiet(DiffusionPipeline.from_pretrained(export))
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    drawn = pipeline(
        prompt_embeds=texts.tokens,
        latents=initial_noise(model.latent_shape(setting.height, setting.width), 0, range(2)),
        generator=step_generators(0, range(2)),
        num_inference_steps=steps,
        guidance_scale=0.0,
        height=setting.height,
        width=setting.width,
        output_type="np",
        **pooled,
    ).images
    return images.read("image"), (drawn * 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    "words",
    [
        ("--method", "rtn", "--tables", "progressive"),
        ("--method", "rtn", "--correction", "--relax", "last"),
        ("--method", "parallel", "--iterations", 1),
        ("--method", "serial", "--iterations", 3, "--activations", "per-step"),
    ],
)
def test_tables_of_one_step(sdquant, with_scheduler, prompts, words):
    folder = with_scheduler(*MODELS["sd-turbo"][:3])
    sdquant("sample", "--prompts", prompts, "--model", folder, "--steps", 1, "--guidance-scale", 0)
    sdquant("calibrate", "--bits", "w8a8", "--batch-size", 2, *words)
    sdquant("generate", "--prompts", prompts, "--engine", "simulated")
    measured = json.loads(sdquant("evaluate", "--no-floor", "--json").stdout)["metrics"]
    assert measured["psnr"]["mean"] > 20


@pytest.mark.parametrize("rule", ["random", "stride", "normal"])
def test_every_rule_selects_the_only_step(sdquant, with_scheduler, prompts, rule):
    folder = with_scheduler(*MODELS["sd-turbo"][:3])
    words = ("--prompts", prompts, "--model", folder, "--steps", 1, "--guidance-scale", 0)
    sdquant("sample", *words, "--select", rule)
    assert sdquant.opened().need(Kind.LATENTS).read("call").tolist() == [0, 0]
