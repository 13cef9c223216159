"""The meter against what is allocated, on Linux; elsewhere it says that it does not know."""

import time

import numpy as np
import pytest

from sdquant_cli import meter
from sdquant_cli.meter import Meter, memory

MIB = 2**20


@pytest.mark.skipif(memory("VmHWM") is None, reason="the platform keeps no mark")
def test_the_peak_is_of_the_meters_own_time(tmp_path):
    before, base = Meter(tmp_path / "a"), memory("VmRSS")
    assert np.ones(200 * MIB, dtype=np.uint8).any()  # and freed
    after, outer = Meter(tmp_path / "b"), Meter(tmp_path / "c")
    assert np.ones(100 * MIB, dtype=np.uint8).any()
    inner = Meter(tmp_path / "d")
    assert before.peak_memory > base + 190 * MIB
    for one in (after, outer):  # the reset of the inner one takes nothing from those at work
        assert base + 90 * MIB < one.peak_memory < base + 150 * MIB
    assert inner.peak_memory < base + 50 * MIB


def test_a_meter_goes_on_from_its_file(tmp_path):
    first = Meter(tmp_path / "cost.json")
    time.sleep(0.02)
    first.save()
    assert Meter(tmp_path / "cost.json").seconds >= 0.02


def test_elsewhere_than_on_linux_memory_is_not_known(tmp_path, monkeypatch):
    for name in ("_STATUS", "_RESET"):
        monkeypatch.setattr(meter, name, tmp_path / "absent" / "file")
    assert memory("VmRSS") is None
    lone = Meter(tmp_path / "cost.json")
    assert lone.peak_memory is None
    lone.save()
    assert Meter(tmp_path / "cost.json").peak_memory is None
