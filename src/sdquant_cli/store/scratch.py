"""The scratch folder of an unfinished artifact: checkpoints to resume from, locked by one process."""

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import EnvironmentProblem
from ..types import Kind
from .objects import Objects, plain_errors


def scratch_of(objects: Objects, kind: Kind, key: str) -> Path:
    """Return the scratch folder of an artifact; for a bucket it is in the current folder."""
    root = objects.local or Path(".sdquant-scratch").absolute()
    return root / "scratch" / kind / key


def claim(scratch: Path, name: str) -> FileLock:
    """Lock an artifact's scratch folder until the lock is released or the process ends.

    Raises EnvironmentProblem while another process of this machine holds it.
    """
    with plain_errors(str(scratch)):
        scratch.mkdir(parents=True, exist_ok=True)
        lock = FileLock(scratch / "lock", is_singleton=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise EnvironmentProblem(
                f"{name}: another process is computing it; run the same command again once that has finished"
            ) from None
    return lock


def clear(scratch: Path, name: str) -> None:
    """Remove an artifact's scratch folder; raises EnvironmentProblem while a process uses it."""
    if scratch.is_dir():
        lock = claim(scratch, name)
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release(force=True)
