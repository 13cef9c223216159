"""Ctrl-C waits while a component is loaded: loaders in C++ and Rust make errors of it, or abort."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within: an interrupt is kept, and takes effect at the end. Without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept: list[tuple[object, ...]] = []
    previous = signal.signal(signal.SIGINT, lambda *args: kept.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if kept and callable(previous):
        previous(*kept[0])  # type: ignore[arg-type]
