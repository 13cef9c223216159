"""Finds a C compiler, compiles a kernel once per machine, loads it; None where any of that fails.

Libraries lie in $XDG_CACHE_HOME/sdquant/native, named by a hash of source, flags, compiler and CPU.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from ..paths import cache_folder

FLAGS = ("-O3", "-march=native", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
SECONDS = 60  # a compiler that takes longer is broken


@cache
def load(name: str) -> ctypes.CDLL | None:
    """The library of `native/<name>.c`, or None: no compiler, or it refuses."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.name != "posix":
        return None
    source = Path(__file__).with_name(f"{name}.c")
    try:
        library = _cache_folder() / f"{name}-{_identity(source, compiler)}.so"
        if not library.exists():
            _compile(compiler, source, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError):
        return None


def _cache_folder() -> Path:
    folder = cache_folder("native")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _identity(source: Path, compiler: str) -> str:
    """A hash of all that decides the machine code: -march=native makes the CPU a part of it."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=SECONDS).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        cpu = platform.processor()
    parts = (
        source.read_bytes(),
        " ".join(FLAGS).encode(),
        version,
        platform.machine().encode(),
        cpu.encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compile(compiler: str, source: Path, library: Path) -> None:
    """Compile beside the target and move it there, so that two processes at once do no harm."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [compiler, *FLAGS, "-shared", "-fPIC", "-o", str(made), str(source), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
        made.replace(library)
