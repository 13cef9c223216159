"""Prompts in a call for `--micro-batch`."""

from types import SimpleNamespace

import pytest
import torch

from sdquant_cli.events import Silence
from sdquant_cli.resources.fitting import largest, micro_batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")


class Notes(Silence):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def needed(prompts):
    return 100 + 10 * prompts


@pytest.mark.parametrize(
    ("memory", "prompts"), [(50, 1), (110, 1), (119, 1), (120, 2), (139, 2), (140, 4), (740, 64), (1e9, 64)]
)
def test_the_largest_power_of_two_that_fits(memory, prompts):
    assert largest(memory, needed) == prompts


def test_a_number_is_taken_as_it_is():
    told = Notes()
    assert micro_batch("3", CUDA, needed, told) == 3
    assert told.notes == []


def test_auto_is_8_on_the_cpu_and_as_many_as_fit_four_fifths_of_a_gpu(monkeypatch):
    told = Notes()
    assert micro_batch("auto", CPU, needed, told) == 8
    cards = {CUDA: SimpleNamespace(total_memory=180 / 0.8)}
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    assert micro_batch("auto", CUDA, needed, told) == 8
    cards[CUDA].total_memory = 179 / 0.8
    assert micro_batch("auto", CUDA, needed, told) == 4
    assert told.notes[-1] == "--micro-batch auto: 4 prompts in a call"
