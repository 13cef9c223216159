"""The scratch folder of an unfinished artifact: checkpoints to resume from, and locks of processes at work.

An artifact of one unit is computed by the process that locks its folder. Processes that share the units of
one lock a file each, by which others see that they are at work.
"""

import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import EnvironmentProblem
from ..types import Kind
from .objects import Objects, plain_errors

_ALL = "lock"  # held by a process that shares with none


class Busy(EnvironmentProblem):
    """A process is computing an artifact."""


def scratch_root(objects: Objects) -> Path:
    """Return the folder above all scratch: the store or, for a bucket, one in the current folder."""
    return objects.local or Path(".sdquant-scratch").absolute()


def scratch_of(objects: Objects, kind: Kind, key: str) -> Path:
    """Return the scratch folder of an artifact."""
    return scratch_root(objects) / "scratch" / kind / key


def claim(scratch: Path, name: str, file: str = _ALL) -> FileLock:
    """Lock an artifact's scratch folder until the lock is released or the process ends.

    Raises Busy while another process of this machine holds it.
    """
    with plain_errors(str(scratch)):
        scratch.mkdir(parents=True, exist_ok=True)
        lock = FileLock(scratch / file, is_singleton=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise Busy(
                f"{name}: another process is computing it; run the same command again once that has finished"
            ) from None
    return lock


@cache
def _process() -> str:
    """Return a name that no other process has."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Member:
    """This process among those that share the units of one draft."""

    scratch: Path
    name: str = field(default_factory=_process)
    host: str = field(default_factory=platform.node)

    def join(self) -> FileLock:
        """Lock this process's file, by which others see that it is at work."""
        return claim(self.scratch, self.name, f"{self.name}.{_ALL}")

    def is_lost(self, name: str) -> bool:
        """Tell if a member is known not to be at work; one of another machine has no lock file here."""
        return name == self.name or (
            (self.scratch / f"{name}.{_ALL}").exists() and not _is_held(self.scratch / f"{name}.{_ALL}")
        )


def _is_held(file: Path) -> bool:
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


@contextmanager
def claims(scratch: Path, name: str) -> Iterator[None]:
    """Hold all locks of a scratch folder; raises Busy while a process holds one of them."""
    with ExitStack() as locks:
        for file in sorted({_ALL, *(path.name for path in scratch.glob(f"*.{_ALL}"))}):
            locks.callback(claim(scratch, name, file).release, force=True)
        yield


def clear(scratch: Path, name: str) -> None:
    """Remove an artifact's scratch folder; raises Busy while a process uses it."""
    if scratch.is_dir():
        with claims(scratch, name):
            discard(scratch)


def discard(scratch: Path) -> None:
    """Remove the scratch folder of an artifact that is published, whoever still looks on."""
    shutil.rmtree(scratch, ignore_errors=True)
