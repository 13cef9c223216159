"""The folder beside a store where a run in progress keeps what it goes on from, held by one process."""

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import EnvironmentProblem
from ..types import Kind
from .objects import Objects, plain_errors


def scratch_of(objects: Objects, kind: Kind, key: str) -> Path:
    """Return the scratch folder of an artifact; that of a bucket's is where the command runs."""
    root = objects.local or Path(".sdquant-scratch").absolute()
    return root / "scratch" / kind / key


def claim(scratch: Path, name: str) -> FileLock:
    """Hold an artifact's scratch until the lock is released or the process ends.

    Raises EnvironmentProblem while another process of this machine holds it.
    """
    with plain_errors(str(scratch)):
        scratch.mkdir(parents=True, exist_ok=True)
        lock = FileLock(scratch / "lock", is_singleton=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise EnvironmentProblem(
                f"{name}: another process is making it; wait for that, then run the same command again"
            ) from None
    return lock


def clear(scratch: Path, name: str) -> None:
    """Remove what a run left behind; raises EnvironmentProblem while a process works there."""
    if scratch.is_dir():
        lock = claim(scratch, name)
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release(force=True)
