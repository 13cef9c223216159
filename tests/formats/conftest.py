"""States of the embedded model that all tests of formats share."""

import pytest

from tests.conftest import Sdquant

STEPS = 4
PROMPTS = ("a big red circle", "a small cyan star")


@pytest.fixture(scope="session")
def latents(tmp_path_factory):
    """A store with calibration latents of the embedded model; the latest state is the last one made."""
    root = tmp_path_factory.mktemp("formats")
    run = Sdquant(root / "store")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    run("sample", "--prompts", root / "prompts.txt", "--steps", STEPS, "--per-prompt", STEPS)
    return run


def _state(run, *words):
    run("calibrate", "--method", "rtn", *words)
    return f"quant-state/{run.opened().resolve('quant-state').key}"


@pytest.fixture(scope="session")
def per_step(latents):
    """W8A8 with a scale for each timestep."""
    return latents, _state(latents, "--bits", "w8a8", "--activations", "per-step")


@pytest.fixture(scope="session")
def per_token(latents):
    """W8A8 with a scale for each token, the first and the last layer at 16 bits."""
    return latents, _state(latents, "--bits", "w8a8", "--activations", "token", "--edges", "w8a16")


@pytest.fixture(scope="session")
def branched(latents):
    """W4A8 with a branch beside each weight, and scales for groups of channels."""
    words = ("--bits", "w4a8", "--activations", "token", "--branch-rank", 4, "--group-size", 16)
    return latents, _state(latents, *words)
