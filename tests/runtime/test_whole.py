"""A folder is there whole or not at all, and nothing of an attempt is left."""

import os
import signal
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from sdquant_cli.runtime.whole import PREFIX, whole_folder
from sdquant_cli.stages import export

WRITES_AND_WAITS = """
import pathlib, sys, time
from sdquant_cli.runtime.whole import whole_folder
with whole_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "a").write_text("a")
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writing(tmp_path):
    """A process that has begun to write `model` in this folder."""
    command = [sys.executable, "-c", WRITES_AND_WAITS, str(tmp_path / "model")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        yield process
        process.kill()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_modes_of_new_ones(tmp_path, umask):
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "model") as folder:
            (folder / "unet").mkdir()
            (folder / "unet" / "a").touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "model" / "unet" / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_empty_folder_is_replaced_and_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("empty", "link", "a/b/c"):
        with whole_folder(tmp_path / name) as folder:
            (folder / name.replace("/", "-")).touch()
        assert (tmp_path / name / name.replace("/", "-")).exists()
        for path in (tmp_path / "empty").iterdir():
            path.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty", "link"]


def fail_within(target):
    with whole_folder(target) as folder:
        (folder / "a").touch()
        raise ValueError("no")


def test_where_it_fails_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match="no"):
        fail_within(tmp_path / "a" / "model")
    assert not list(tmp_path.iterdir())


def test_sigterm_leaves_nothing(tmp_path, writing):
    assert [path.name for path in tmp_path.glob(f"{PREFIX}*/folder/*")] == ["a"]
    writing.send_signal(signal.SIGTERM)
    assert writing.wait(30) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_and_no_other(tmp_path, writing):
    def write():
        with whole_folder(tmp_path / "other"):
            pass
        (tmp_path / "other").rmdir()

    write()
    assert len(list(tmp_path.iterdir())) == 1  # still being written
    writing.kill()
    writing.wait(30)
    assert len(list(tmp_path.iterdir())) == 1
    write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line(exported, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(export, "_write", fail)
    said = exported[0]("export", "--output", tmp_path / "model", code=5).stderr.splitlines()[-1]
    assert said.startswith(f"sdquant: --output {tmp_path / 'model'}: No space left on device")
    assert not list(tmp_path.iterdir())
