"""Random kills of two processes that make the same artifacts: `benchmarks/scale/kills.py` in small."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "words", [("--stages", "sample,calibrate"), ("--stages", "sample", "--s3")], ids=["folder", "bucket"]
)
def test_nothing_is_lost_or_redone_but_the_units_in_hand(words):
    command = [sys.executable, "-m", "benchmarks.scale.kills", "--kills", "3", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["kills"] == 3
    assert outcome["units"] <= outcome["computed"] <= outcome["units"] + 3
