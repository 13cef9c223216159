"""Compiled kernels are kept between runs, and one that is not as it was compiled is compiled again."""

import logging

import pytest

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


@pytest.mark.usefixtures("cache")
def test_no_compiler_is_told_once(monkeypatch, caplog):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    with caplog.at_level(logging.WARNING):
        assert build.load("quantize") is None
        assert build.load("fake_quantize") is None
    assert caplog.messages == [build.NO_KERNEL]
