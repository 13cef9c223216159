"""Other schedules than calibrated: the nearest timestep's quantizers, or interpolated ones."""

import json

import numpy as np
import pytest
from diffusers import DiffusionPipeline

import sdquant_cli
from tests.conftest import Sdquant
from tests.runtime.exports import psnr, quiet

PROMPT = "a big red circle"
WITHOUT_NOISE = ("--scheduler", "EDMEulerScheduler", "--steps", 6)
OTHER = ("--scheduler", "unipc", "--steps", 6)


@pytest.fixture(scope="module")
def store(tiny, tmp_path_factory):
    """A store with a state of 10 steps, a table entry for each of them and wider grids at the last two."""
    root = tmp_path_factory.mktemp("step-match")
    run = Sdquant(root / "store")
    (root / "prompts.txt").write_text(f"{PROMPT}\na small cyan star\n")
    words = ("--scheduler", "ddim", "--steps", 10, "--model", tiny("sd-v1-4/two-blocks"))
    run("sample", "--prompts", root / "prompts.txt", "--per-prompt", 10, *words)
    run("calibrate", "--method", "rtn", "--bits", "w8a8", "--activations", "per-step", "--relax", "last")
    return run


def generated(store, *words):
    """The spec and the pictures (N,H,W,3) that `generate` draws."""
    drawn = json.loads(
        store("generate", "--prompts", store.store.parent / "prompts.txt", *words, "--json").stdout
    )
    pictures = store.opened().resolve(f"images/{drawn['key']}").read("image").astype(float)
    return drawn["spec"], pictures


def test_interpolated_tables_draw_what_floating_point_draws(store):
    said = store(
        "generate", "--prompts", store.store.parent / "prompts.txt", *OTHER, "--step-match", "interpolate"
    )
    assert "6 of 6 timesteps were not calibrated and take activation quantizers between" in said.stderr
    spec, integer = generated(store, *OTHER, "--step-match", "interpolate")
    assert (spec["engine"], spec["step_match"]) == ("integer", "interpolate")
    simulated = generated(store, *OTHER, "--step-match", "interpolate", "--engine", "simulated")[1]
    assert psnr(simulated, integer) > 36
    assert measured(store)["metrics"]["psnr"]["mean"] > 25
    nearest = generated(store, *OTHER, "--step-match", "nearest")[1]
    assert (nearest != simulated).any()


def measured(store, *words):
    """What `evaluate` says of the latest pictures beside floating point of their schedule and size."""
    return json.loads(store("evaluate", "--against", "fp", *words, "--json").stdout)


def test_at_calibrated_timesteps_nothing_changes(store):
    own = generated(store, "--engine", "simulated")[1]
    for match in ("nearest", "interpolate"):
        assert (generated(store, "--engine", "simulated", "--step-match", match)[1] == own).all()


def test_a_folder_is_exported_for_another_schedule(store, tmp_path, tiny):
    store("export", "--output", tmp_path / "model", *OTHER)
    assert "is intact" in store("verify", tmp_path / "model").stdout
    recipe = json.loads((tmp_path / "model" / "recipe.json").read_text())
    assert (recipe["setting"]["scheduler"], recipe["setting"]["steps"]) == ("unipc", 6)
    pipeline = quiet(DiffusionPipeline.from_pretrained(tmp_path / "model"))
    assert type(pipeline.scheduler).__name__ == "UniPCMultistepScheduler"
    noise = sdquant_cli.generator(0)
    scale = recipe["setting"]["guidance_scale"]
    drawn = pipeline(PROMPT, num_inference_steps=6, guidance_scale=scale, generator=noise).images[0]
    expected = generated(store, *OTHER, "--step-match", "interpolate")[1][0]
    assert psnr(np.asarray(drawn, dtype=float), expected) > 36


def test_drift_tells_the_two_apart(store):
    keys = set()
    for match in ("nearest", "interpolate"):
        generated(store, *OTHER, "--step-match", match)
        measured(store, "--drift", "--drift-prompts", 1)
        keys.add(store.opened().resolve("drift").key)
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("generate", *OTHER), "or add --step-match nearest or interpolate"),
        (("generate", *OTHER, "--step-match", "linear"), "--step-match linear"),
        (
            ("export", "--format", "dequant", *OTHER),
            "--scheduler unipc --steps 6: --format dequant has no tables",
        ),
        (("export", "--steps", 2000), "--steps 2000: expected 1..1000"),
        (
            ("generate", *WITHOUT_NOISE, "--step-match", "interpolate"),
            "does not say how noisy its latents are",
        ),
        (("export", *WITHOUT_NOISE), "EDMEulerScheduler: does not say how noisy its latents are"),
    ],
)
def test_what_cannot_be_is_one_line(store, tmp_path, words, line):
    place = ("--output", tmp_path / "out") if words[0] == "export" else ()
    prompts = ("--prompts", store.store.parent / "prompts.txt") if words[0] == "generate" else ()
    assert line in store(*words, *place, *prompts, code=2).stderr
    assert not (tmp_path / "out").exists()


def test_a_state_without_tables_needs_no_schedule(sdquant, tiny, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n")
    sdquant(
        "sample", "--prompts", tmp_path / "prompts.txt", "--steps", 2, "--model", tiny("sd-v1-4/two-blocks")
    )
    sdquant("calibrate", "--method", "rtn", "--bits", "w8a8", "--activations", "token")
    said = sdquant("export", "--output", tmp_path / "out", "--steps", 3, code=2).stderr
    assert "--steps 3: quant-state/" in said
    assert "draws at any timestep" in said


def test_a_state_with_tables_draws_at_other_sizes(store):
    spec, pictures = generated(store, "--height", 32, "--width", 96)
    assert (spec["setting"]["height"], spec["setting"]["width"]) == (32, 96)
    assert pictures.shape[1:3] == (32, 96)
    assert measured(store)["metrics"]["psnr"]["mean"] > 20
    assert "--height 33: expected a multiple of" in store("generate", "--height", 33, code=2).stderr
    spec, _ = generated(store, "--height", 32, *OTHER, "--step-match", "interpolate")
    assert (spec["setting"]["height"], spec["setting"]["steps"]) == (32, 6)


def test_a_graph_is_exported_for_another_schedule(store, tmp_path):
    said = store("export", "--output", tmp_path / "graph", "--format", "onnx", "--lossy", *OTHER).stderr
    assert "signal to noise of a call" in said
    timesteps = json.loads((tmp_path / "graph" / "unet" / "timesteps.json").read_text())
    assert len(timesteps) == 6
    index = json.loads((tmp_path / "graph" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "UniPCMultistepScheduler"]
