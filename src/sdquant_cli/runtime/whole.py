"""A folder that is there whole or not at all.

It is written under another name, which a lock marks as in use, and renamed at the end. What processes that
died have left is removed by the next one that writes there.
"""

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..paths import sync

PREFIX = ".sdquant-export-"
_LOCK = "lock"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a new folder to write in; at the end it becomes `target`, which may be there if it is empty.

    Nothing is left where that fails, or where SIGTERM ends the process.
    """
    target = target.resolve()
    parent = next(folder for folder in target.parents if folder.is_dir())
    _remove_leftovers(parent)
    with _ended_by_an_exception(), _scratch(parent) as scratch:
        folder = scratch / "folder"
        folder.mkdir()
        yield folder
        _settle(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        sync(target.parent)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as name, FileLock(Path(name) / _LOCK):
        yield Path(name)


def _remove_leftovers(parent: Path) -> None:
    """Remove the scratch folders that no process holds the lock of."""
    for folder in parent.glob(f"{PREFIX}*"):
        if not (folder / _LOCK).is_file():
            continue
        try:
            with FileLock(folder / _LOCK, blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):  # in use, or another user's
            continue


def _settle(folder: Path) -> None:
    """Give files the mode of new ones, which safetensors does not, and have the disk keep them."""
    mode = folder.stat().st_mode & 0o666  # what the umask leaves
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            path.chmod(mode)
        sync(path)


@contextmanager
def _ended_by_an_exception() -> Iterator[None]:
    """Within: SIGTERM raises SystemExit, unless the program handles it otherwise."""
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
