"""The families at published sizes with random weights, end to end in two steps at 32x32 latents."""

import json

import pytest
import torch

from sdquant_cli.methods.published import METHODS
from tests.conftest import Sdquant
from tools.random_models.configurations import PIPELINES
from tools.random_models.make import make


@pytest.mark.full_size
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", tuple(PIPELINES))
def test_a_full_size_model_goes_through(sdquant, tmp_path, name):
    model = make(name, tmp_path / name, dtype=torch.bfloat16)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\n")
    size = ("--steps", 2, "--per-prompt", 2, "--height", 256, "--width", 256)
    latents = json.loads(
        sdquant("sample", "--prompts", prompts, "--model", model, "--dtype", "bf16", *size, "--json").stdout
    )
    assert latents["facts"]["latents"] == 2
    sdquant("precalc-time")
    state = json.loads(sdquant("calibrate", "--method", "rtn", "--bits", "w8a8", "--json").stdout)
    layers = {
        "sdxl": 773,
        "sdxl-inpainting": 773,
        "sd3-medium": 288,
        "sd3.5-medium": 340,
        "pixart-sigma": 284,
    }
    assert state["facts"]["layers"] == layers.get(name, 258)
    sdquant("generate", "--prompts", prompts)
    measured = json.loads(sdquant("evaluate", "--against", "fp", "--no-floor", "--json").stdout)
    assert measured["metrics"]["psnr"]["mean"] > 15


@pytest.mark.full_size
@pytest.mark.timeout(3600)
def test_sd_v1_4_is_calibrated_exported_and_drawn_with(sdquant, tmp_path):
    import sdquant_cli

    model = make("sd-v1-4", tmp_path / "sd-v1-4")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\n")
    size = ("--steps", 2, "--per-prompt", 2, "--height", 256, "--width", 256)
    sdquant("sample", "--prompts", prompts, "--model", model, *size)
    words = ("--bits", "w4a8", "--train", "steps", "--iterations", 2, "--batch-size", 1)
    sdquant("calibrate", *words, "--checkpointing", "--teacher-dtype", "bf16")
    sdquant("export", "--output", tmp_path / "exported")
    shards = list((tmp_path / "exported" / "unet").glob("*.safetensors"))
    assert sum(shard.stat().st_size for shard in shards) <= 0.48e9
    assert max(shard.stat().st_size for shard in shards) <= 100e6
    pipeline = sdquant_cli.load(tmp_path / "exported", dtype=torch.bfloat16)
    told = {"num_inference_steps": 2, "height": 256, "width": 256}
    assert pipeline("a big red circle", **told).images[0].size == (256, 256)


@pytest.fixture(scope="module")
def latents_of_sd_v1_4(tmp_path_factory):
    """A store with two latents of a full-size SD v1-4; 8x8 latents, since weights are what is large."""
    folder = tmp_path_factory.mktemp("methods")
    model = make("sd-v1-4", folder / "sd-v1-4")
    prompts = folder / "prompts.txt"
    prompts.write_text("a big red circle\na small blue square\n")
    sdquant = Sdquant(folder / "store")
    sdquant("sample", "--prompts", prompts, "--model", model, "--steps", 2, "--height", 64, "--width", 64)
    return sdquant, prompts


@pytest.mark.full_size
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_calibrates_sd_v1_4(latents_of_sd_v1_4, method):
    sdquant, prompts = latents_of_sd_v1_4
    words = ["--iterations", 2] if METHODS[method].trains else []
    if METHODS[method].source:
        words += ["--train", "steps"]  # Adam's moments of all weights would need 16 GB
    state = json.loads(sdquant("calibrate", "--method", method, *words, "--json").stdout)
    assert state["spec"]["method"] == method
    assert len(state["facts"]["units"]) == (78 if METHODS[method].reconstruct else 0)
    drawn = json.loads(sdquant("generate", "--prompts", prompts, "--limit", 1, "--json").stdout)
    assert drawn["facts"]["images"] == 1
