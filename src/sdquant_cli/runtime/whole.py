"""Atomic output folders: a folder is complete, or does not exist.

It is written under a temporary name that a lock marks as in use, and renamed at the end. Leftovers of killed
processes are removed by the next one that writes there.
"""

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..errors import EnvironmentProblem, UsageProblem
from ..paths import check_output_folder, sync

PREFIX = ".sdquant-export-"
_LOCK = "lock"


def check_new_folder(path: Path, store: str | None) -> None:
    """Raise UsageProblem for an `--output` that cannot be written, or that is there and not empty."""
    check_output_folder(path, "--output", store)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageProblem(f"--output {path}: exists; name a new folder, or remove it first")


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `--output`; raises EnvironmentProblem if it cannot be written."""
    try:
        with whole_folder(path) as folder:
            yield folder
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise EnvironmentProblem(f"--output {path}: {reason}; nothing was left there") from None


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder to write in; at the end it becomes `target`, which may exist if it is empty.

    Nothing is left if writing fails or SIGTERM ends the process.
    """
    target = target.resolve()
    parent = next(folder for folder in target.parents if folder.is_dir())
    _remove_leftovers(parent)
    with _ended_by_an_exception(), _scratch(parent) as scratch:
        folder = scratch / "folder"
        folder.mkdir()
        yield folder
        _make_durable(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        sync(target.parent)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as name, FileLock(Path(name) / _LOCK):
        yield Path(name)


def _remove_leftovers(parent: Path) -> None:
    """Remove temporary folders whose lock no process holds."""
    for folder in parent.glob(f"{PREFIX}*"):
        if not (folder / _LOCK).is_file():
            continue
        try:
            with FileLock(folder / _LOCK, blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):  # in use, or another user's
            continue


def _make_durable(folder: Path) -> None:
    """Give files the default mode, which safetensors does not, and flush them to disk."""
    mode = folder.stat().st_mode & 0o666  # that the umask allows
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            path.chmod(mode)
        sync(path)


@contextmanager
def _ended_by_an_exception() -> Iterator[None]:
    """Raise SystemExit on SIGTERM within the context, unless the program handles it."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, _: object) -> None:
    raise SystemExit(128 + number)
