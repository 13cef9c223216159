"""Measured time of a network's calls, and memory of loading it and calling it once."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool

import torch

from ..meter import memory

Load = Callable[[], Callable[[], object]]  # returns a call without arguments


@dataclass(frozen=True)
class Footprint:
    """Time and memory of loading and one call in a fresh process, imports not counted."""

    load_seconds: float  # CPU
    first_seconds: float  # CPU, of the first call, which prepares an engine's weights
    peak_bytes: int  # anonymous memory, since pages of a mapped file can be dropped


def footprint(load: Load) -> Footprint:
    """Return the footprint measured in a fresh process, which must be able to import `load`."""
    with _fresh_process() as pool:
        return pool.apply(_measure, (load, torch.get_num_threads()))


def _fresh_process() -> Pool:
    """Return a process that ignores Ctrl-C: it ends with this one, without a traceback of its own."""
    context = multiprocessing.get_context("spawn")
    if threading.current_thread() is not threading.main_thread():
        return context.Pool(1)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child inherits this
    try:
        return context.Pool(1)
    finally:
        signal.signal(signal.SIGINT, before)


def _measure(load: Load, threads: int) -> Footprint:
    import diffusers
    import diffusers.models.unets.unet_2d_condition

    assert diffusers
    torch.set_num_threads(threads)
    torch.randn(64, 64) @ torch.randn(64, 64)
    before = _anonymous()
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        began = time.process_time()
        call = load()
        loaded = time.process_time()
        call()
        ended = time.process_time()
    finally:
        done.set()
        watcher.join()
    return Footprint(loaded - began, ended - loaded, peak - before)


def _anonymous() -> int:
    """Return the bytes of this process's memory that is not backed by files."""
    size = memory("RssAnon")
    if size is None:
        raise RuntimeError("memory is measured on Linux only")
    return size


@dataclass(frozen=True)
class Timing:
    """The seconds that one call took."""

    cpu: float  # of all threads
    wall: float


def interleaved(
    calls: Sequence[Callable[[], object]], repeats: int, tick: Callable[[], object]
) -> list[list[Timing]]:
    """Return the timings of each call; a repeat runs every call once, so that all meet the same load."""
    for call in calls:
        call()  # the first call prepares an engine's weights
    timings: list[list[Timing]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, times in zip(calls, timings, strict=True):
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            times.append(Timing(time.process_time() - cpu, time.perf_counter() - wall))
            tick()
    return timings
