"""Measured time and memory."""

import time

import numpy as np

from sdquant_cli.resources.measured import footprint, interleaved


def hundred_megabytes():
    kept = np.ones(100_000_000, dtype=np.uint8)
    return kept.sum


def test_memory_is_that_of_loading_and_calling():
    measured = footprint(hundred_megabytes)
    assert 95e6 < measured.peak_bytes < 150e6
    assert measured.load_seconds > 0


def test_calls_are_timed_in_turn():
    order: list[str] = []

    def sleeping():
        order.append("a")
        time.sleep(0.02)

    timings = interleaved([sleeping, lambda: order.append("b")], 3, lambda: order.append("."))
    assert "".join(order) == "ab" + "a.b." * 3
    assert [len(repeats) for repeats in timings] == [3, 3]
    assert all(timing.wall >= 0.02 > timing.cpu for timing in timings[0])
    assert all(timing.cpu < 0.02 for timing in timings[1])
