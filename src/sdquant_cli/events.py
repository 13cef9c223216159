"""What a stage tells whoever runs it. The library reports here and never prints.

Standard library only.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """A piece of work in progress."""

    def advance(self, steps: int = 1) -> None:
        """Say that `steps` more steps are done."""


class Events(Protocol):
    """The listener of a run."""

    def task(self, name: str, total: int, unit: str, done: int = 0) -> AbstractContextManager[Task]:
        """Open a task of `total` steps, each one `unit`, `done` of them before; use as a context manager."""

    def note(self, message: str) -> None:
        """Tell something worth knowing."""

    def warn(self, message: str) -> None:
        """Tell something that may be wrong."""


class _Silence:
    def advance(self, steps: int = 1) -> None:
        pass

    @contextmanager
    def task(self, name: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:  # noqa: ARG002
        yield self

    def note(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        pass


SILENT: Events = _Silence()
