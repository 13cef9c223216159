"""Ctrl-C waits while a component is loaded: loaders in C++ and Rust turn it into an error, or abort."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay an interrupt to the end of the context; in other threads than the main one, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    delayed: list[tuple[object, ...]] = []
    previous = signal.signal(signal.SIGINT, lambda *args: delayed.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if delayed and callable(previous):
        previous(*delayed[0])  # type: ignore[arg-type]
