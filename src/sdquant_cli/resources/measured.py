"""What a network costs: seconds of a call, and memory of loading it and calling it once."""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool

import torch

from ..meter import memory

Load = Callable[[], Callable[[], object]]  # -> a call without arguments


@dataclass(frozen=True)
class Footprint:
    """Of a process of its own, above what imports take."""

    load_seconds: float  # CPU
    first_seconds: float  # CPU, of the first call, in which an engine prepares weights
    peak_bytes: int  # anonymous: pages of a mapped file can be dropped at any time


def footprint(load: Load) -> Footprint:
    """Measure in a fresh process; `load` must be importable there."""
    with _fresh_process() as pool:
        return pool.apply(_measure, (load, torch.get_num_threads()))


def _fresh_process() -> Pool:
    """One that Ctrl-C does not reach: it ends with ours, without a word of its own."""
    context = multiprocessing.get_context("spawn")
    if threading.current_thread() is not threading.main_thread():
        return context.Pool(1)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # is passed on
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
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak.append(max(peak.pop(), _anonymous()))

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
    return Footprint(loaded - began, ended - loaded, peak[0] - before)


def _anonymous() -> int:
    """Bytes of this process that no file stands behind."""
    found = memory("RssAnon")
    if found is None:
        raise RuntimeError("memory is measured on Linux only")
    return found


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    cpu: float  # over all threads
    wall: float


def interleaved(
    calls: Sequence[Callable[[], object]], repeats: int, tick: Callable[[], object]
) -> list[list[Timing]]:
    """What each call takes, in each repeat: all of them run once, in turn."""
    for call in calls:
        call()  # an engine prepares weights in the first
    timings: list[list[Timing]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, times in zip(calls, timings, strict=True):
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            times.append(Timing(time.process_time() - cpu, time.perf_counter() - wall))
            tick()
    return timings
