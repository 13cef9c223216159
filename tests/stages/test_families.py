"""All six stages on every family, at tiny width with real classes."""

import json
import shutil

import pytest
from safetensors import safe_open

from sdquant_cli.artifacts.lineage import read_lineage
from sdquant_cli.manifests.kinds import ImagesManifest, QuantStateManifest
from sdquant_cli.methods.published import METHODS
from sdquant_cli.report.reproduce import ReproductionTarget, prompt_file, script
from sdquant_cli.types import Execution
from tools.random_models.configurations import PIPELINES


@pytest.mark.parametrize("name", tuple(PIPELINES))
def test_the_six_stages(sdquant, tiny, tmp_path, name):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\na small cyan star\n")
    sdquant("sample", "--prompts", prompts, "--model", tiny(name), "--steps", 3, "--per-prompt", 2)
    table = json.loads(sdquant("precalc-time", "--json").stdout)["facts"]
    assert (table["prompt_table_bytes"] is not None) == name.startswith(("sdxl", "sd3"))
    sdquant("sensitivity")
    words = ("--bits", "w4a8", "--mixed", "--iterations", 2, "--batch-size", 2, "--block-weight", 0.5)
    state = json.loads(sdquant("calibrate", *words, "--json").stdout)["facts"]
    assert len(state["losses"]) == 1
    sdquant("generate", "--prompts", prompts, "--seed", 1)
    measured = json.loads(sdquant("evaluate", "--against", "fp", "--json").stdout)["metrics"]
    assert measured["psnr"]["n"] == 2
    assert measured["psnr"]["mean"] > 20  # random weights: the same noise is nearly the same picture
    assert "is up to date" in sdquant("calibrate", *words).stderr


@pytest.mark.parametrize("method", [name for name in METHODS if name != "serial-to-parallel"])
@pytest.mark.parametrize("name", ["sdxl", "sd3-medium"])
def test_the_other_methods(sdquant, tiny, tmp_path, method, name):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\na small cyan star\n")
    sdquant("sample", "--prompts", prompts, "--model", tiny(name), "--steps", 3)
    words = ("--iterations", 2) if METHODS[method].trains else ()
    made = json.loads(sdquant("calibrate", "--method", method, *words, "--json").stdout)
    assert made["spec"]["method"] == method


def test_a_half_precision_model_goes_through(sdquant, tiny, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\n")
    words = ("--model", tiny("sdxl"), "--dtype", "bf16", "--steps", 2)
    sdquant("sample", "--prompts", prompts, *words)
    sdquant("calibrate", "--method", "rtn", "--bits", "w8a8")
    sdquant("generate", "--prompts", prompts)
    measured = json.loads(sdquant("evaluate", "--against", "fp", "--json").stdout)["metrics"]
    assert measured["psnr"]["mean"] > 20


def test_a_schedule_that_was_not_calibrated(sdquant, tiny, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\na small cyan star\n")
    words = ("--scheduler", "ddim", "--steps", 10, "--model", tiny("sd-v1-4/two-blocks"))
    sdquant("sample", "--prompts", prompts, *words)
    sdquant("calibrate", "--method", "rtn", "--bits", "w8a8")
    other = ("generate", "--prompts", prompts, "--scheduler", "unipc", "--steps", 6)
    refused = sdquant(*other, code=2).stderr
    assert "was calibrated with ddim (10 timesteps, 901 ... 1)" in refused
    assert "--step-match nearest" in refused
    said = sdquant(*other, "--step-match", "nearest").stderr
    assert sdquant.opened().resolve("images/latest-quantized").spec.engine is Execution.SIMULATED
    assert "of 6 timesteps were not calibrated" in said
    measured = json.loads(sdquant("evaluate", "--against", "fp", "--json").stdout)
    assert measured["metrics"]["psnr"]["mean"] > 20
    store = sdquant.opened()
    metrics = store.resolve("metrics")
    lineage = read_lineage([metrics], store)
    images = lineage.input(metrics.manifest, "images", ImagesManifest)
    state = lineage.input(images, "state", QuantStateManifest)
    files = dict.fromkeys(
        (ref.key for ref in images.inputs.values() if ref.kind == "prompts"), prompt_file("p.txt", ["a"])
    )
    again = script([ReproductionTarget(metrics.manifest, images, state)], lineage, files)
    assert "--scheduler unipc --steps 6" in next(line for line in again.lines if " generate " in line)
    # the same schedule, asked for by name, is the calibrated one
    sdquant("generate", "--prompts", prompts, "--scheduler", "ddim", "--steps", 10)


def test_a_v_prediction_model_with_latents_of_an_epsilon_one(sdquant, tiny, tmp_path):
    folder = shutil.copytree(tiny("sd-v1-4"), tmp_path / "model")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\n")
    sdquant("sample", "--prompts", prompts, "--model", folder, "--steps", 2)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    for verb in ("precalc-time", "sensitivity", "calibrate"):
        assert "its files changed since the input artifact was made" in sdquant(verb, code=2).stderr


def test_a_fine_tune_with_v_prediction_and_a_terminal_snr_of_zero(sdquant, tiny, tmp_path):
    folder = shutil.copytree(tiny("sd-v1-4/two-blocks"), tmp_path / "model")
    path = folder / "scheduler" / "scheduler_config.json"
    fields = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\n")
    sdquant("sample", "--prompts", prompts, "--model", folder, "--scheduler", "ddim", "--steps", 3)
    sdquant("calibrate", "--method", "rtn", "--bits", "w8a8", "--activations", "per-step")
    sdquant("generate", "--prompts", prompts)
    measured = json.loads(sdquant("evaluate", "--against", "fp", "--json").stdout)["metrics"]
    assert measured["psnr"]["mean"] > 20
    sdquant("export", "--output", tmp_path / "folder")
    written = json.loads((tmp_path / "folder" / "scheduler" / "scheduler_config.json").read_text())
    assert {name: written[name] for name in fields} == fields
    sdquant("export", "--format", "single-file", "--output", tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert {"v_pred", "ztsnr"} <= set(file.keys())


def test_a_distilled_unet_without_attention_in_the_middle_drawn_without_guidance(sdquant, tiny, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a big red circle\na small cyan star\n")
    words = ("--prompts", prompts, "--model", tiny("sdxl/distilled"), "--guidance-scale", 0)
    sdquant("sample", *words, "--steps", 2)
    sdquant("calibrate", "--method", "rtn", "--bits", "w8a8")
    sdquant("export", "--output", tmp_path / "x.safetensors", "--format", "single-file")
    sdquant("export", "--output", tmp_path / "folder")
    refused = sdquant("sample", *words, "--steps", 4, "--select", "density", code=2).stderr
    assert "has no attention in its middle block" in refused
