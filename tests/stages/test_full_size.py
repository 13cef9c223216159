"""The families at published sizes with random weights, end to end in two steps at 32x32 latents."""

import json

import pytest
import torch

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
    assert state["facts"]["layers"] == {"sdxl": 773, "sd3-medium": 288}.get(name, 258)
    sdquant("generate", "--prompts", prompts)
    measured = json.loads(sdquant("evaluate", "--against", "fp", "--no-floor", "--json").stdout)
    assert measured["metrics"]["psnr"]["mean"] > 15
