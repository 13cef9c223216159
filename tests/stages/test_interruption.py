"""kill -9 in the middle of a stage, then the same command again: the digest of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.conftest import PROMPTS, Sdquant

HELDOUT = PROMPTS / "shapes-heldout.txt"
FEW = ("sample", "--prompts", HELDOUT, "--limit", 3, "--steps", 2)
SAMPLE = ("sample", "--prompts", HELDOUT, "--limit", 300, "--steps", 2)
CALIBRATE = ("calibrate", "--bits", "w4a8", "--iterations", 60, "--batch-size", 1)
GENERATE = ("generate", "--model", "fp", "--prompts", HELDOUT, "--limit", 66)


def kill_when(words, store, pattern: str) -> None:
    """Run a command in a process of its own and kill it as soon as a file appears."""
    command = [sys.executable, "-m", "sdquant_cli", *map(str, words), "--store", str(store)]
    # the digest is promised for equal thread counts
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 300
    while not list(store.glob(pattern)):
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(
    ("before", "words", "kind", "pattern"),
    [
        ([], SAMPLE, "latents", "artifacts/latents/*/units/000000.json"),
        ([FEW], CALIBRATE, "quant-state", "scratch/quant-state/*/cost.json"),
        ([FEW], GENERATE, "images", "artifacts/images/*/units/000000.json"),
    ],
    ids=["sample", "calibrate", "generate"],
)
def test_a_killed_stage_resumes_to_the_same_digest(tmp_path, tiny, before, words, kind, pattern):
    model = ("--model", tiny("sd-v1-4/two-blocks"))  # small: what is tested is what is made again
    before = [(*earlier, *model) for earlier in before]
    words = words if before else (*words, *model)
    killed, undisturbed = Sdquant(tmp_path / "killed"), Sdquant(tmp_path / "undisturbed")
    for sdquant in (killed, undisturbed):
        for earlier in before:
            sdquant(*earlier)
    kill_when(words, killed.store, pattern)
    assert killed.opened().latest(kind) is None
    told = killed(*words).stderr
    if kind == "quant-state":
        assert "resuming at iteration 50" in told
    undisturbed(*words)
    found, expected = (s.opened().resolve(kind).manifest for s in (killed, undisturbed))
    assert found.digest == expected.digest
    assert found.key == expected.key
    if kind == "quant-state":  # what the killed run had made counts: 50 of the 60 iterations
        assert found.provenance.seconds > expected.provenance.seconds / 2
    assert not list(killed.store.glob("scratch/*/*"))


def test_ctrl_c_is_one_line_and_130(tmp_path):
    # shells let background jobs ignore the signal, and children inherit that
    code = (
        "import signal as s; s.signal(s.SIGINT, s.default_int_handler); import sdquant_cli.cli as c; c.main()"
    )
    command = [sys.executable, "-c", code, *map(str, SAMPLE), "--store", str(tmp_path / "store")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "store").glob("artifacts/latents/*/spec.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
