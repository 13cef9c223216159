"""Find a C compiler, compile a kernel once per machine and load it; None where any of that fails.

Libraries lie in $XDG_CACHE_HOME/sdquant/native, named by a hash of source, flags, compiler and CPU, and by
their own sha256: a library that was changed is compiled again. Flags in $SDQUANT_CFLAGS follow our own;
those in $CFLAGS, which environments like conda's set for older CPUs, do not count.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..paths import cache_folder, temporary_cache

FLAGS = ("-O3", "-march=native", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
SECONDS = 60  # a compiler that takes longer is broken
NO_KERNEL = (
    "sdquant: no working C compiler (CC, cc, gcc or clang): plain torch replaces the kernels; it is "
    "slower and adds in another order, so a calibration differs in its last digits from one with a compiler"
)
_DIGITS = 32  # of a library's sha256, in its name


class _Compilation(NamedTuple):
    """A source file, the compiler and its flags."""

    compiler: str
    flags: tuple[str, ...]
    source: Path


@cache
def load(name: str, definitions: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """Return the library of `native/<name>.c`, or None if it cannot be compiled; warn about that once.

    `definitions` are macros, as `-D` takes them.
    """
    library = _load(name, definitions)
    if library is None:
        _warn()
    return library


@cache
def _warn() -> None:
    logging.getLogger(__name__).warning(NO_KERNEL)


def _load(name: str, definitions: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.name != "posix":
        return None
    flags = (*FLAGS, *os.environ.get("SDQUANT_CFLAGS", "").split(), *(f"-D{macro}" for macro in definitions))
    compilation = _Compilation(compiler, flags, Path(__file__).with_name(f"{name}.c"))
    try:
        stem = f"{name}-{_identity(compilation)}"
        try:
            return _loaded(compilation, cache_folder("native"), stem)
        except OSError:  # the folder cannot be written, or no code in it be executed
            return _loaded(compilation, temporary_cache() / "native", stem)
    except (OSError, subprocess.SubprocessError):
        return None


def _loaded(compilation: _Compilation, folder: Path, stem: str) -> ctypes.CDLL:
    """Load a library from a folder, where it is compiled unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    return ctypes.CDLL(str(_intact(folder, stem) or _compile(compilation, folder, stem)))


def _identity(compilation: _Compilation) -> str:
    """Return a hash of all that decides the machine code: -march=native makes the CPU a part of it."""
    command = [compilation.compiler, "--version"]
    version = subprocess.run(command, check=True, capture_output=True, timeout=SECONDS).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        cpu = platform.processor()
    parts = (
        compilation.source.read_bytes(),
        " ".join(compilation.flags).encode(),
        version,
        platform.machine().encode(),
        cpu.encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _intact(folder: Path, stem: str) -> Path | None:
    """Return a compiled library whose bytes have the sha256 of its name, if there is one; remove others."""
    for path in folder.glob(f"{stem}-*.so"):
        if path.name == _name(stem, path):
            return path
        path.unlink(missing_ok=True)
    return None


def _name(stem: str, path: Path) -> str:
    return f"{stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]}.so"


def _compile(compilation: _Compilation, folder: Path, stem: str) -> Path:
    """Compile in a folder beside the target and move it there, so that two processes do no harm."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        compiled = Path(scratch) / "library.so"
        files = ("-o", str(compiled), str(compilation.source))
        command = [compilation.compiler, *compilation.flags, "-shared", "-fPIC", *files, "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
        return compiled.replace(folder / _name(stem, compiled))
