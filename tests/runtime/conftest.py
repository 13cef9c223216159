"""One export of the embedded model that all tests of exported folders share."""

import shutil

import pytest

from tests.conftest import Sdquant
from tests.runtime.exports import PROMPT, STEPS


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A store with a W4A8 state of the embedded model, mixed, one step relaxed, and its exported folder."""
    root = tmp_path_factory.mktemp("exported")
    run = Sdquant(root / "store")
    (root / "prompts.txt").write_text(f"{PROMPT}\na small cyan star\n")
    run("sample", "--prompts", root / "prompts.txt", "--steps", STEPS, "--per-prompt", 2)
    run("sensitivity")
    words = ("--method", "rtn", "--bits", "w4a8", "--mixed", "--relax", "last", "--no-full-range")
    run("calibrate", *words)
    run("export", "--output", root / "model")
    return run, root / "model"


@pytest.fixture
def folder(exported, tmp_path):
    """A copy to damage."""
    return shutil.copytree(exported[1], tmp_path / "model")
