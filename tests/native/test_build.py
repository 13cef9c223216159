"""Compiled kernels are kept between runs, and one that is not as it was compiled is compiled again."""

import logging
import os
import subprocess
import sys

import pytest

from sdquant_cli import paths
from sdquant_cli.native import build, fake_quantize

needs_kernel = pytest.mark.skipif(not fake_quantize.available(), reason="no C compiler here")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own; what was loaded before is loaded again afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    functions = (build.load, build._warn)
    for function in functions:
        function.cache_clear()
    yield tmp_path / "sdquant" / "native"
    for function in functions:
        function.cache_clear()


@needs_kernel
@pytest.mark.parametrize("harm", [lambda b: b[:4096], lambda b: b[:-1], lambda b: b"", lambda b: b + b"\0"])
def test_a_harmed_library_is_compiled_again(cache, harm):
    assert build._load("quantize")
    (library,) = cache.iterdir()
    whole = library.read_bytes()
    library.unlink()  # the loaded one stays mapped
    library.write_bytes(harm(whole))
    assert build._load("quantize")
    (again,) = cache.iterdir()
    assert again.read_bytes() == whole or again.name != library.name


@needs_kernel
def test_a_whole_library_is_not_compiled_again(cache, monkeypatch):
    assert build._load("quantize")
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("compiled twice"))
    assert build._load("quantize")
    assert len(list(cache.iterdir())) == 1


@needs_kernel
def test_other_flags_and_definitions_make_other_libraries(cache, monkeypatch):
    assert build.load("quantize")
    assert build.load("quantize", ("quantize=renamed",)).renamed
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setenv("SDQUANT_CFLAGS", "-O1  -Dquantize=another")
    build.load.cache_clear()
    assert build.load("quantize").another
    assert len(list(cache.iterdir())) == 3


@needs_kernel
@pytest.mark.usefixtures("cache")
def test_flags_that_the_compiler_refuses_leave_no_kernel(monkeypatch, caplog):
    monkeypatch.setenv("SDQUANT_CFLAGS", "--no-such-flag")
    assert build.load("quantize") is None
    assert caplog.messages == [build.NO_KERNEL]


def compiler(folder, *lines):
    """A compiler that tells its version, and else does what the lines say."""
    path = folder / "compiler"
    path.write_text("\n".join(("#!/bin/sh", '[ "$1" = --version ] && exit 0', *lines, "")))
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("harm", ["exit 1", "exec sleep 60", "kill -9 $$"])
def test_a_compiler_that_fails_or_hangs_is_told_once(cache, tmp_path, monkeypatch, caplog, harm):
    monkeypatch.setenv("CC", compiler(tmp_path, harm))
    monkeypatch.setattr(build, "SECONDS", 0.3)
    with caplog.at_level(logging.WARNING):
        assert build.load("quantize") is None
        assert build.load("fake_quantize") is None
    assert caplog.messages == [build.NO_KERNEL]
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("cache")
def test_no_compiler_is_told_once(monkeypatch, caplog):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    with caplog.at_level(logging.WARNING):
        assert build.load("quantize") is None
        assert build.load("fake_quantize") is None
    assert caplog.messages == [build.NO_KERNEL]


@needs_kernel
def test_processes_that_compile_at_once_all_load(cache):
    code = "from sdquant_cli.native.build import load; assert load('quantize').quantize"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert errors == [b"", b""]
    assert all(path.suffix == ".so" for path in cache.iterdir())  # nothing is left over


def that_is_a_file(folder):
    folder.parent.mkdir()
    folder.write_text("")


def that_cannot_be_written(folder):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    folder.mkdir(parents=True)
    folder.chmod(0o555)


@needs_kernel
@pytest.mark.parametrize("harm", [that_is_a_file, that_cannot_be_written])
def test_where_the_cache_cannot_be_written_the_temporary_folder_serves(
    cache, tmp_path, monkeypatch, caplog, harm
):
    harm(cache)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    paths.temporary_cache.cache_clear()
    assert build.load("quantize")
    assert len(list(paths.temporary_cache().glob("native/*.so"))) == 1
    paths.temporary_cache.cache_clear()
    assert len(caplog.messages) == 1
    assert "using" in caplog.messages[0]
