"""Guidance scales at or below 1 through all stages, and numbers that are not finite."""

import pytest

from sdquant_cli.types import Kind
from tests.conftest import PROMPTS

TRAIN = PROMPTS / "shapes-train.txt"
SMALL = ("--prompts", TRAIN, "--limit", 3, "--steps", 2)


@pytest.fixture(scope="module")
def unguided(tmp_path_factory):
    """Latents, ranking and states without guidance."""
    from tests.conftest import Sdquant

    sdquant = Sdquant(tmp_path_factory.mktemp("unguided") / "store")
    sdquant("sample", *SMALL, "--guidance-scale", 0)
    sdquant("sensitivity", "--limit", 2)
    return sdquant


def test_the_network_runs_once_for_each_prompt(unguided):
    latents = unguided.opened().need(Kind.LATENTS)
    calls = latents.read("call")
    assert latents.facts.unet_calls_minimum == calls.sum()
    assert unguided.opened().need(Kind.SENSITIVITY).manifest.arrays["first_order"].shape[:2] == (2, 1)


@pytest.mark.parametrize(
    ("words", "forwards"),
    [
        (("--method", "serial", "--iterations", 4, "--batch-size", 2, "--accumulate", 2), 3 + 4 * 2 * 4),
        (("--method", "rtn", "--tables", "progressive", "--correction"), 3 + 3 * (3 + 2) + 2 * 3),
    ],
)
def test_states_are_calibrated_on_items_with_their_prompt_alone(unguided, words, forwards):
    unguided("calibrate", "--bits", "w8a8", *words)
    state = unguided.opened().need(Kind.QUANT_STATE)
    assert state.facts.forwards == forwards
    assert state.facts.setting.guidance_scale == 0


def test_pictures_and_their_drift(unguided):
    unguided("calibrate", "--bits", "w8a8", "--method", "rtn")
    unguided("generate", "--prompts", TRAIN, "--limit", 2)
    unguided("evaluate", "--no-floor", "--drift", "--drift-prompts", 1)
    drift = unguided.opened().need(Kind.DRIFT).facts
    assert min(drift.prediction_sqnr) > 10


def test_a_loss_on_guidance_has_no_meaning_without(unguided):
    said = unguided("calibrate", "--bits", "w8a8", "--guided-weight", 1, code=2).stderr
    assert "--guided-weight 1: has no effect at guidance scale 0" in said


def test_latents_that_are_not_finite_are_not_stored(sdquant, monkeypatch):
    from sdquant_cli.models.load import Model

    load = Model.denoiser

    def overflowing(self, *words):
        unet = load(self, *words)
        unet.conv_out.bias.data.fill_(1e30)  # finite, and beyond what latents are stored in
        return unet

    monkeypatch.setattr(Model, "denoiser", overflowing)
    said = sdquant("sample", *SMALL, "--per-prompt", 2, code=1).stderr
    assert "the latent of prompt" in said
    assert "is not finite" in said
    assert sdquant.opened().latest(Kind.LATENTS) is None
    sdquant("ls")
