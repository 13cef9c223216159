"""Ctrl-C and SIGTERM on a process that only waits: nothing else is loaded, so this is quick."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WAITS = """
import sys, tempfile, time
from sdquant_cli.interrupt import interruptible

with interruptible():
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            time.sleep(float(sys.argv[2]))
"""


def started(folder: Path, cleaning: float) -> subprocess.Popen:
    """A process that waits, and cleans up for some seconds when it is interrupted."""
    command = [sys.executable, "-c", WAITS, str(folder), str(cleaning)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGINT, 130, "interrupted; "), (signal.SIGTERM, 143, "terminated; ")],
    ids=["SIGINT", "SIGTERM"],
)
@pytest.mark.parametrize("times", [1, 6])
def test_one_line_a_code_of_its_own_and_no_temporary_folder(tmp_path, number, code, says, times):
    process = started(tmp_path, cleaning=0.4)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.03)
    _, told = process.communicate()
    assert process.returncode == code
    assert told.startswith(f"sdquant: {says}")
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_whoever_presses_again_later_does_not_wait_for_the_cleaning(tmp_path):
    process = started(tmp_path, cleaning=60)
    process.send_signal(signal.SIGINT)
    time.sleep(1.3)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert told == ""


def test_a_background_job_keeps_ignoring(tmp_path):
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + WAITS.replace("60", "0.5")
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path, "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 0
