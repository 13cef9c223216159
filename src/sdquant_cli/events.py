"""Progress, notes and warnings of a stage: the library reports them here and never prints.

Standard library only.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """A task in progress."""

    def advance(self, steps: int = 1) -> None:
        """Report `steps` more steps as done."""


class Events(Protocol):
    """The receiver of a run's progress and messages."""

    def task(self, name: str, total: int, unit: str, done: int = 0) -> AbstractContextManager[Task]:
        """Open a task of `total` steps, each one `unit`, of which `done` were done before."""

    def note(self, message: str) -> None:
        """Report information."""

    def warn(self, message: str) -> None:
        """Report a possible problem."""


class Silence:
    """A receiver that drops everything."""

    def advance(self, steps: int = 1) -> None:
        """Drop progress."""

    @contextmanager
    def task(self, name: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:  # noqa: ARG002
        """Open a task that drops progress."""
        yield self

    def note(self, message: str) -> None:
        """Drop information."""

    def warn(self, message: str) -> None:
        """Drop a warning."""


SILENT: Events = Silence()
