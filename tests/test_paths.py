import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sdquant_cli import paths
from sdquant_cli.errors import UsageProblem
from sdquant_cli.paths import atomic_append, atomic_write, cache_folder, check_output, check_regular, plain
from sdquant_cli.store import store as store_module


def test_the_home_folder_stands_for_a_tilde_and_urls_stay(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert plain("~/models/x") == "/home/somebody/models/x"
    assert plain(Path("~")) == Path("/home/somebody")
    for unchanged in ("s3://bucket/~x", "a~b", "", "~nobody-has-this-name/x", Path("x")):
        assert plain(unchanged) == unchanged


@pytest.mark.parametrize(("text", "says"), [("a\0b", "NUL"), ("\udcff.txt", "UTF-8")])
def test_text_that_no_artifact_can_hold_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        plain(text)


# ------------------------------------------------------------------------------------- input


def test_what_is_no_regular_file_is_refused_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    (tmp_path / "file").write_text("")
    check_regular(tmp_path / "file", "--config")
    for name, says in (
        (tmp_path / "fifo", "is a pipe"),
        (tmp_path / "socket", "a socket"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "is a folder"),
        (tmp_path / "absent", "no such file"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(UsageProblem, match=says):
            check_regular(name, "--config")


# ------------------------------------------------------------------------------------- cache


def test_the_cache_is_where_the_variable_or_the_home_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("weights") == tmp_path / ".cache" / "sdquant" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("native") == tmp_path / "xdg" / "sdquant" / "native"
    assert not list(tmp_path.iterdir())


def no_home(monkeypatch, tmp_path):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)


def a_variable_that_names_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


def a_home_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere


@pytest.mark.parametrize("harm", [no_home, a_variable_that_names_a_file, a_home_that_cannot_be_written])
def test_without_a_cache_the_temporary_folder_serves_and_says_so_once(monkeypatch, tmp_path, caplog, harm):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    harm(monkeypatch, tmp_path)
    paths.temporary_cache.cache_clear()
    folder = cache_folder("weights")
    assert folder.parent.parent == temporary
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    cache_folder("native")
    assert len(caplog.messages) == 1
    assert str(folder.parent) in caplog.messages[0]
    paths.temporary_cache.cache_clear()


def test_a_temporary_folder_that_others_can_write_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    foreign = tmp_path / f"sdquant-{os.getuid()}"
    foreign.mkdir()
    foreign.chmod(0o777)
    paths.temporary_cache.cache_clear()
    assert paths.temporary_cache() != foreign
    assert paths.temporary_cache().stat().st_mode & 0o077 == 0
    paths.temporary_cache.cache_clear()


def test_doctor_runs_for_a_user_who_has_no_home(tmp_path):
    code = (
        "import pathlib\n"
        "def fail(*_): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = fail\n"
        "from sdquant_cli.metrics.weights import Weights\n"
        "print(Weights().folder)"
    )
    variables = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**variables, "TMPDIR": str(tmp_path)},
    )
    assert done.stdout.startswith(str(tmp_path))
    assert done.stderr.count("\n") == 1


# ------------------------------------------------------------------------------------ output


def test_an_output_within_any_store_is_refused(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / paths.STORE_HEADER).write_text("{}")
    (tmp_path / "link").symlink_to(other)
    for name in ("other/sdquant-store.json", "other/a/x.html", "link/x", "new/x", "new"):
        path = tmp_path / name
        with pytest.raises(UsageProblem, match="is a store"):
            check_output(path, "--output", str(tmp_path / "new"))
        with pytest.raises(UsageProblem, match="is a store"):
            paths.check_output_folder(path, "--output", str(tmp_path / "new"))
    check_output(tmp_path / "x.html", "--output", "s3://bucket/store")
    assert paths.STORE_HEADER == store_module.HEADER


def test_an_output_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path, says in (
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "x", "there is no folder"),
        (tmp_path / "file" / "x", "there is no folder"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(UsageProblem, match=says):
            check_output(path, "--summary", "store")
    with pytest.raises(UsageProblem, match="is a file, expected a folder"):
        paths.check_output_folder(tmp_path / "file" / "x", "--output", "store")
    check_output(Path("/dev/null"), "--output", "store")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UsageProblem, match="cannot be written"):
        check_output(tmp_path / "file", "--output", "store")
    with pytest.raises(UsageProblem, match="cannot be written"):
        check_output(tmp_path / "new", "--output", "store")
    with pytest.raises(UsageProblem, match="cannot be written"):
        paths.check_output_folder(tmp_path / "new", "--output", "store")


def test_a_file_of_another_kind_is_not_overwritten(tmp_path):
    file = tmp_path / "x"
    for content in (b"", b"\n <!DOCTYPE html><p>"):
        file.write_bytes(content)
        paths.check_overwrites(file, "--output", paths.HTML, "an HTML page")
    for content in (b"# Notes", b"\x89PNG"):
        file.write_bytes(content)
        with pytest.raises(UsageProblem, match="exists and is not an HTML page"):
            paths.check_overwrites(file, "--output", paths.HTML, "an HTML page")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file, link = tmp_path / "x", tmp_path / "link"
    link.symlink_to(file)
    before = os.umask(0o027)
    try:
        atomic_write(link, "first")
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    file.chmod(0o604)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            atomic_write(file, b"second")
    assert file.read_text() == "first"
    atomic_write(file, b"third")
    assert file.read_text() == "third"
    assert file.stat().st_mode & 0o777 == 0o604
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "x"]
    atomic_write(Path("/dev/null"), "gone")


def test_appending_is_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "x"
    atomic_append(file, "one\n")
    atomic_append(file, "two\n")
    assert file.read_text() == "one\ntwo\n"

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[:2])
            raise OSError(28, "No space left on device")

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: Full(opened(self, mode)))
    with pytest.raises(OSError, match="No space left"):
        atomic_append(file, "three\n")
    monkeypatch.undo()
    assert file.read_text() == "one\ntwo\n"


def test_a_partial_file_becomes_the_file(tmp_path):
    path = tmp_path / "x.pt"
    with paths.partial_file(path) as partial:
        partial.write_text("whole")
        assert partial.parent == tmp_path
        assert not path.exists()
    assert path.read_text() == "whole"


def test_a_partial_file_is_removed_when_writing_is_interrupted(tmp_path):
    path = tmp_path / "x.pt"
    path.write_text("whole")

    def interrupted():
        with paths.partial_file(path) as partial:
            partial.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "whole"
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]
