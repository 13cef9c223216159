"""Models that embed the guidance scale: what they compute, what their exports draw, what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from sdquant_cli.artifacts.quant_state import QuantState
from sdquant_cli.artifacts.text_embeds import TextEmbeds
from sdquant_cli.artifacts.time_table import TimeTable
from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.guidance import embed_scale
from sdquant_cli.models.load import find_model
from sdquant_cli.models.noise import initial_noise, step_generators
from sdquant_cli.models.time_table import tabulate
from sdquant_cli.report.reproduce import setting_flags
from sdquant_cli.types import Kind
from tests.conftest import Sdquant
from tests.runtime.exports import psnr, quiet

STATIC = ("--method", "rtn", "--bits", "w8a8", "--activations", "per-step")


@pytest.fixture(scope="module")
def lcm(tiny, tmp_path_factory):
    """A store with a static state of the tiny model, at its own scale."""
    root = tmp_path_factory.mktemp("lcm")
    run, prompts = Sdquant(root / "store"), root / "prompts.txt"
    prompts.write_text("a big red circle\na small cyan star\n")
    run("sample", "--prompts", prompts, "--model", tiny("lcm"), "--per-prompt", 2)
    run("calibrate", *STATIC)
    return run


def test_each_prompt_is_one_item_and_the_setting_has_the_scale(lcm):
    latents = lcm.opened().need(Kind.LATENTS)
    setting = latents.spec.setting
    assert (setting.guidance_scale, setting.embedded_guidance, setting.steps) == (1, 8.5, 4)
    assert latents.facts.unet_calls_minimum == latents.read("call").reshape(2, 2).max(axis=1).sum()
    words = setting_flags(setting.as_requested)
    assert words[words.index("--guidance-scale") + 1] == "8.5"


def test_the_table_has_the_scale_in_it(lcm, sdquant, tiny):
    model = find_model(str(tiny("lcm")))
    table = lcm.workspace().need(TimeTable)
    features = table.features()
    for scale in (8.5, 2.0):
        parts = tabulate(model.denoiser(), features.timesteps, embed_scale(scale, 8)).values()
        assert torch.allclose(torch.cat(list(parts), dim=1), features.values, atol=1e-5) == (scale == 8.5)
    other = ("--prompts", lcm.store.parent / "prompts.txt", "--model", tiny("lcm"), "--guidance-scale", 2)
    sdquant("sample", *other)
    sdquant("precalc-time")
    assert sdquant.opened().need(Kind.TIME_TABLE).key != table.key


@pytest.fixture(scope="module")
def exported(lcm, tmp_path_factory):
    """The folder, and the pictures that `generate` draws with packed weights."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    lcm("export", "--output", folder)
    lcm("generate", "--prompts", lcm.store.parent / "prompts.txt", "--engine", "dequantized")
    return folder


def call(run, pipeline, **changes):
    """Two pictures as `generate` draws them: from its noise and its embeddings, (2,H,W,3) uint8."""
    images = run.opened().resolve("images/latest-quantized")
    embeds = run.workspace().input(TextEmbeds, images, "text-embeds")
    side = images.spec.setting.height // 8
    drawn = quiet(pipeline)(
        prompt_embeds=torch.from_numpy(embeds.read("embedding")).float()[embeds.index()],
        latents=initial_noise((4, side, side), 0, range(2)),
        generator=step_generators(0, range(2)),
        **{"num_inference_steps": 4, "guidance_scale": 8.5, "output_type": "np", **changes},
    ).images
    return images, (drawn * 255).round().astype(np.uint8)


def test_an_exported_folder_draws_what_generate_draws(lcm, exported, monkeypatch):
    monkeypatch.setenv("SDQUANT_ENGINE", "dequantized")
    lcm("verify", exported)
    config = json.loads((exported / "unet" / "config.json").read_text())["quantization_config"]
    assert (config["time_table"], config["embedded_guidance"]) == (True, 8.5)
    pipeline = DiffusionPipeline.from_pretrained(exported)
    assert type(pipeline).__name__ == "LatentConsistencyModelPipeline"
    assert not hasattr(pipeline.unet.time_embedding, "cond_proj")
    images, drawn = call(lcm, pipeline)
    assert psnr(drawn, images.read("image")) > 50
    half = DiffusionPipeline.from_pretrained(exported, dtype=torch.bfloat16)
    assert psnr(call(lcm, half)[1], drawn) > 20


def test_another_guidance_scale_than_the_tables_is_refused(lcm, exported):
    pipeline = DiffusionPipeline.from_pretrained(exported)
    for scale in (8.0, 1.0):
        with pytest.raises(UsageProblem, match=r"the guidance scale is not 8\.5, which the time table"):
            call(lcm, pipeline, guidance_scale=scale)
    with pytest.raises(UsageProblem, match=r"guidance_scale=8\.5"):
        pipeline.unet(torch.zeros(1, 4, 8, 8), pipeline.scheduler.timesteps[0], torch.zeros(1, 77, 16))
    said = lcm("generate", "--guidance-scale", 4, code=2).stderr
    assert "--guidance-scale 4.0: quant-state/" in said
    assert "was made with 8.5" in said


def test_other_formats_say_that_they_have_no_place_for_it(lcm, tmp_path):
    lcm("calibrate", *STATIC)
    for form, path in (("single-file", "x.safetensors"), ("comfyui-int8", "x.safetensors"), ("onnx", "x")):
        words = ("--format", form, "--output", tmp_path / path, "--lossy")
        assert "guidance scale" in lcm("export", *words, code=2).stderr


def test_a_state_without_tables_draws_at_any_scale(lcm, tmp_path):
    run, prompts = Sdquant(shutil.copytree(lcm.store, tmp_path / "store")), lcm.store.parent / "prompts.txt"
    run("calibrate", "--method", "rtn", "--bits", "w8a8", "--activations", "token")
    for engine in ("simulated", "dequantized"):
        run("generate", "--prompts", prompts, "--engine", engine, "--guidance-scale", 3)
        images = run.opened().resolve("images/latest-quantized")
        assert (images.spec.setting.guidance_scale, images.spec.setting.embedded_guidance) == (1, 3)
    run("evaluate", "--against", "fp", "--no-floor")
    measured = json.loads(run("evaluate", "--against", "fp", "--no-floor", "--json").stdout)["metrics"]
    assert measured["psnr"]["mean"] > 20


def test_a_time_path_that_is_rounded_has_the_scale_too(lcm):
    lcm("calibrate", *STATIC, "--time-path", "quantized")
    state = lcm.workspace().need(QuantState)
    rounded = lcm.workspace().input(TimeTable, state, "time-table")
    assert (rounded.spec.bits, rounded.spec.embedded_guidance) == ("w8a8", 8.5)


def test_quantize_keeps_the_time_path(sdquant, tiny, tmp_path):
    sdquant.without_store("quantize", tiny("lcm"), "--output", tmp_path / "folder")
    sdquant.without_store("verify", tmp_path / "folder")
    pipeline = quiet(DiffusionPipeline.from_pretrained(tmp_path / "folder"))
    words = {"num_inference_steps": 2, "output_type": "np"}
    first, second = (
        pipeline("a big red circle", generator=torch.manual_seed(0), guidance_scale=scale, **words).images
        for scale in (2.0, 9.0)
    )
    assert not np.array_equal(first, second)


def test_what_the_family_does_not_take(lcm, sdquant, tiny, tmp_path):
    words = ("sample", "--prompts", lcm.store.parent / "prompts.txt", "--model")
    said = sdquant(*words, tiny("lcm"), "--scheduler", "ddim", code=2).stderr
    assert "--scheduler ddim: Latent consistency models needs LCMScheduler" in said
    said = lcm("calibrate", "--method", "serial", "--guided-weight", 1, code=2).stderr
    assert "has no effect with a model that embeds its guidance scale" in said
    folder = shutil.copytree(tiny("lcm"), tmp_path / "model")
    path = folder / "unet" / "config.json"
    for value, problem in ((None, "time_cond_proj_dim is missing"), ("256", 'time_cond_proj_dim is "256"')):
        path.write_text(json.dumps({**json.loads(path.read_text()), "time_cond_proj_dim": value}))
        assert f"config.json: {problem}" in sdquant(*words, folder, code=2).stderr


def test_sdxl_with_an_embedded_scale(sdquant, tiny, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\n")
    model = tiny("sdxl/embedded-guidance")
    sdquant("sample", "--prompts", prompts, "--model", model, "--steps", 2, "--guidance-scale", 6)
    sdquant("calibrate", *STATIC)
    sdquant("export", "--output", tmp_path / "folder")
    sdquant("verify", tmp_path / "folder")
    sdquant("generate", "--prompts", prompts)
    measured = json.loads(sdquant("evaluate", "--no-floor", "--json").stdout)["metrics"]
    assert measured["psnr"]["mean"] > 20
    pipeline = quiet(DiffusionPipeline.from_pretrained(tmp_path / "folder"))
    pipeline("a big red circle", num_inference_steps=2, guidance_scale=6, height=64, width=64)
