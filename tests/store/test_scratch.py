"""The scratch folder of an unfinished artifact."""

import subprocess
import sys
from pathlib import Path

import pytest

from sdquant_cli.errors import EnvironmentProblem
from sdquant_cli.store.objects import Objects
from sdquant_cli.store.scratch import claim, clear, scratch_of
from sdquant_cli.types import Kind

CLAIM = """
import sys
from pathlib import Path
from sdquant_cli.store.scratch import claim
lock = claim(Path(sys.argv[1]), "latents/key")
print("claimed", flush=True)
sys.stdin.read()
"""


def test_scratch_lies_in_the_store_and_for_a_bucket_where_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert scratch_of(Objects(str(tmp_path)), Kind.LATENTS, "k") == tmp_path / "scratch/latents/k"
    bucket = scratch_of(Objects("s3://bucket/prefix"), Kind.LATENTS, "k")
    assert bucket == tmp_path / ".sdquant-scratch/scratch/latents/k"


def test_it_is_cleared_unless_another_process_holds_it(tmp_path):
    scratch: Path = tmp_path / "scratch"
    command = [sys.executable, "-c", CLAIM, str(scratch)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"claimed\n"
        with pytest.raises(EnvironmentProblem, match="latents/key: another process is computing it"):
            clear(scratch, "latents/key")
        assert scratch.is_dir()
    clear(scratch, "latents/key")
    assert not scratch.exists()
    clear(scratch, "latents/key")  # nothing there


def test_a_lock_that_was_released_is_claimed_again(tmp_path):
    claim(tmp_path / "scratch", "a").release(force=True)
    again = claim(tmp_path / "scratch", "a")
    assert again.is_locked
    again.release(force=True)
