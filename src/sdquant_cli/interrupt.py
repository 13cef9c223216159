"""Handling of Ctrl-C and SIGTERM: the first signal ends a command cleanly, a later one at once.

Standard library only.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
PATIENCE = 1.0  # seconds during which repeated signals count as one


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; raised like Ctrl-C, so that temporary folders are removed."""


def last_words(error: KeyboardInterrupt) -> tuple[str, int]:
    """Return the last line and the exit code of an interrupted command."""
    if isinstance(error, Terminated):
        return "terminated; nothing is lost, the same command resumes", TERMINATED
    return "interrupted; nothing is lost, the same command resumes", INTERRUPTED


class _Handler:
    """A signal handler that raises once, ignores signals soon after, and exits at once on later ones."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.finished = False

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.first is None and not self.finished:
            self.first = time.monotonic()
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self.first is None or time.monotonic() - self.first > PATIENCE:
            os._exit(128 + number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Run a command until it ends or a signal arrives; the process must end afterwards.

    A signal that the process was started to ignore, as in a background job, stays ignored.
    """
    handler = _Handler()
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    for number, handling in usual.items():
        if signal.getsignal(number) is handling:
            signal.signal(number, handler)
    try:
        yield
    except KeyboardInterrupt as error:
        words, code = last_words(error)
        print(f"sdquant: {words}", file=sys.stderr)  # noqa: T201
        raise SystemExit(code) from None
    finally:
        handler.finished = True
