"""The six stages on the embedded model, with few steps and prompts."""

import json

import numpy as np
import pytest
import torch

from tests import fakes
from tests.conftest import PROMPTS

TRAIN, HELDOUT = PROMPTS / "shapes-train.txt", PROMPTS / "shapes-heldout.txt"
CHAIN = [
    ("sample", "--prompts", TRAIN, "--limit", 6, "--steps", 5, "--seed", 3),
    ("precalc-time",),
    ("sensitivity",),
    ("calibrate", "--bits", "w4a8", "--mixed", "--iterations", 2, "--batch-size", 3),
    ("generate", "--prompts", HELDOUT, "--limit", 4),
    ("evaluate", "--against", "fp"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store with the whole chain in it, and what each command printed."""
    from tests.conftest import Sdquant

    sdquant = Sdquant(tmp_path_factory.mktemp("chain") / "store")
    return sdquant, {words[0]: sdquant(*words) for words in CHAIN}


def test_every_stage_uses_the_latest_of_the_one_before(finished):
    sdquant, _ = finished
    store = sdquant.opened()
    metrics = store.resolve("metrics")
    images = store.follow(metrics.manifest.inputs["images"])
    state = store.follow(images.manifest.inputs["state"])
    assert state.manifest.inputs["sensitivity"].key == store.resolve("sensitivity").manifest.key
    assert state.manifest.inputs["latents"].key == store.resolve("latents").manifest.key
    assert images.spec.setting.steps == 5


def test_the_same_commands_again_compute_nothing(finished, monkeypatch):
    sdquant, _ = finished
    before = {a.manifest.key for a in sdquant.opened().artifacts()}
    monkeypatch.setattr(
        "sdquant_cli.models.load.Model._load", lambda *_, **__: pytest.fail("weights were loaded")
    )
    for words in CHAIN:
        assert "is up to date" in sdquant(*words).stderr
    assert {a.manifest.key for a in sdquant.opened().artifacts()} == before


def test_everything_stored_is_intact(finished):
    sdquant, _ = finished
    lines = sdquant("verify").stdout.splitlines()
    assert len(lines) == len(sdquant.opened().artifacts()) == 15
    assert all(line.endswith("is intact") for line in lines)


def test_latents_are_the_unets_inputs_at_their_own_call(finished):
    """Run one prompt's trajectory again, alone, and find its stored latent on the way."""
    from sdquant_cli.artifacts.text_embeds import TextEmbeds
    from sdquant_cli.models.denoise import denoise
    from sdquant_cli.models.load import find_model
    from sdquant_cli.models.noise import initial_noise
    from sdquant_cli.models.trajectory import Trajectory

    sdquant, _ = finished
    store = sdquant.opened()
    latents = store.resolve("latents")
    embeds = sdquant.workspace().input(TextEmbeds, latents, "text-embeds")
    model, prompt = find_model("shapes"), 4
    drawn = latents.spec.setting
    texts = embeds.texts(model, drawn)
    place = int(np.flatnonzero(latents.read("prompt_index") == prompt)[0])
    seen = {}

    def visit(call, x):
        seen[call] = x[0]
        return True

    conditioning = texts.guided(embeds.read("index")[[prompt]])
    noise = initial_noise((4, 16, 16), 3, [prompt])
    path = Trajectory(model.sampler(drawn), noise)
    denoise(model.denoiser(), path, conditioning, drawn.guidance_scale, visit)
    expected = seen[int(latents.read("call")[place])]
    # stored in fp16, and computed in another micro-batch
    torch.testing.assert_close(
        torch.from_numpy(latents.read("x"))[place].float(), expected, atol=2e-3, rtol=2e-3
    )


def test_sample_counts_its_unet_calls(finished):
    sdquant, _ = finished
    facts = sdquant.opened().resolve("latents").facts
    calls = sdquant.opened().resolve("latents").read("call")
    assert facts.unet_calls_minimum == 2 * calls.sum()
    assert facts.unet_calls == 2 * 6 * calls.max()  # one batch of all six


def test_the_ranking_has_all_layers_and_both_ends(finished):
    sdquant, _ = finished
    facts = sdquant.opened().resolve("sensitivity").facts
    assert len(facts.ranking) == len(facts.scores) == 258
    assert (len(facts.top), len(facts.bottom)) == (13, 13)
    values = [facts.scores[name] for name in facts.ranking]
    assert values == sorted(values, reverse=True)
    x = facts.first_order["conv_in"]
    assert facts.scores["conv_in"] == pytest.approx(abs(x - x * x / 2))


def test_mixed_precision_follows_the_ranking(finished):
    sdquant, _ = finished
    ranking, state = (sdquant.opened().resolve(kind).facts for kind in ("sensitivity", "quant-state"))
    assert {name for name, bits in state.bits.items() if bits == "w8a16"} == set(ranking.top)
    assert {name for name, bits in state.bits.items() if bits == "w4a4"} == set(ranking.bottom)
    codes = sdquant.opened().resolve("quant-state").read("codes")
    assert (codes.min(), codes.max()) == (-128, 127)  # all 256 levels
    assert state.layers == 258


def test_state_rebuilds_the_pictures_it_was_calibrated_for(finished):
    """Quantized pictures are near the floating-point ones, and not equal to them."""
    sdquant, _ = finished
    metrics = sdquant.opened().resolve("metrics").facts.metrics
    assert 10 < metrics["psnr"].mean < 60
    assert 0 < metrics["ssim"].mean < 1


def test_a_flag_that_contradicts_the_input_is_a_usage_error(finished):
    sdquant, _ = finished
    for words in (
        ("precalc-time", "--steps", 6),
        ("calibrate", "--guidance-scale", 9),
        ("generate", "--dtype", "bf16"),
    ):
        assert f"{words[1]} {words[2]}" in sdquant(*words, code=2).stderr


def test_dry_runs_write_nothing(finished, sdquant):
    done, _ = finished
    before = len(done.opened().artifacts())
    for words in CHAIN:
        document = json.loads(done(*words, "--dry-run", "--json").stdout)
        assert document["stage"] == words[0]
        assert document["plan"]
    assert len(done.opened().artifacts()) == before
    sdquant(*CHAIN[0], "--dry-run")
    assert not sdquant.store.exists()


def test_pictures_are_written_as_png(finished, tmp_path):
    from PIL import Image

    sdquant, _ = finished
    sdquant("generate", "--prompts", HELDOUT, "--limit", 4, "--output", tmp_path / "out")
    stored = sdquant.opened().resolve("images/latest-quantized").read("image")
    for i in range(4):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / f"{i:05d}.png")), stored[i])


def test_calibration_without_a_ranking_and_with_few_latents(sdquant):
    sdquant("sample", "--prompts", TRAIN, "--limit", 3, "--steps", 3)
    assert "run" not in (result := sdquant("calibrate", "--mixed", code=3)).stdout
    assert "sdquant sensitivity" in result.stderr
    told = sdquant("calibrate", "--bits", "w8a8", "--iterations", 1).stderr
    assert "batch size reduced to 3: only 3 latents available" in told
    assert "training without L_sen" in told
    facts = sdquant.opened().resolve("quant-state").facts
    assert facts.bits == {"conv_in": "w8a16", "conv_out": "w8a16"}
    assert facts.average_bits["weights, by parameters"] == 8


def test_the_micro_batch_changes_latents_by_rounding_only(sdquant):
    for size in (2, 5):
        sdquant(
            "sample", "--prompts", TRAIN, "--limit", 5, "--steps", 4, "--per-prompt", 4, "--micro-batch", size
        )
    first, second = (a for a in sdquant.opened().artifacts() if a.manifest.kind == "latents")
    assert first.manifest.key != second.manifest.key
    ours, theirs = first.read("x"), second.read("x")
    difference = np.abs(ours.astype(np.float32) - theirs.astype(np.float32))
    # stored as fp16: one unit in the last place of each value, which below 4 is 2e-3 at most
    assert (difference <= np.maximum(np.spacing(np.abs(ours)), 2e-3)).all()
    assert (difference > 1e-4).mean() < 0.01


def test_an_up_to_date_artifact_becomes_the_latest_again(sdquant):
    def sample(seed):
        return sdquant("sample", "--prompts", TRAIN, "--limit", 1, "--steps", 2, "--seed", seed)

    sample(0)
    first = sdquant.opened().resolve("latents").ref
    sample(1)
    assert sdquant.opened().resolve("latents").ref != first
    assert "is up to date" in sample(0).stderr
    assert sdquant.opened().resolve("latents").ref == first
    listed = json.loads(sdquant("ls", "--json").stdout)
    assert [row["tags"] for row in listed if first.key in row["artifact"]] == [["latest"]]


def test_trajectories_of_two_micro_batches_agree_within_1e_4(embedded_unet):
    from sdquant_cli.models.conditioning import Conditioning
    from sdquant_cli.models.denoise import denoise
    from sdquant_cli.models.noise import initial_noise
    from sdquant_cli.models.trajectory import Trajectory

    texts = Conditioning(torch.randn(5, 32, 96, generator=torch.Generator().manual_seed(0)))

    def drawn(picks):
        noise = initial_noise((4, 16, 16), 0, picks)
        return denoise(embedded_unet, Trajectory(fakes.sampler(steps=4), noise), texts.guided(picks), 3.0)

    torch.testing.assert_close(drawn([0, 1, 2, 3, 4])[:2], drawn([0, 1]), atol=1e-4, rtol=0)


def test_a_configuration_file_runs_the_chain(sdquant, tmp_path):
    config = tmp_path / "chain.yaml"
    config.write_text(
        f"sample:\n  prompts: {TRAIN}\n  limit: 2\n  steps: 3\nsensitivity:\n"
        "calibrate:\n  bits: w8a8\n  iterations: 0\ngenerate:\n  limit: 2\n"
    )
    document = json.loads(sdquant("run", "--config", config, "--json").stdout)
    assert document["metrics"]["psnr"]["n"] == 2
    config.write_text("sample:\n  prompts: x.txt\n  stepz: 3\n")
    assert "sample.stepz" in sdquant("run", "--config", config, code=2).stderr
    config.write_text(f"sample: {{prompts: {TRAIN}, limit: 5}}\n---\nsample: {{prompts: x.txt}}\n")
    told = sdquant("run", "--config", config, code=2).stderr  # before the first chain
    assert "x.txt" in told
    assert "==" not in told
