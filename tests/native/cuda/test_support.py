"""What keeps a GPU from computing with integers is told in one line."""

import sys

import pytest
import torch

from sdquant_cli.native.cuda import support

CUDA = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch):
    """Say which card there is, and what happens to a kernel on it."""

    def there_is(capability, launch=lambda device: None):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
        monkeypatch.setattr(support, "_probe", launch)
        support.problem.cache_clear()

    yield there_is
    support.problem.cache_clear()


def failing(error):
    def launch(device):
        raise error

    return launch


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 1)])
def test_cards_since_2020_have_no_problem(card, capability):
    card(capability)
    assert support.problem(CUDA) is None


def test_an_older_card(card):
    card((7, 5), failing(AssertionError("no kernel is run there")))
    assert support.problem(CUDA) == "Some GPU has compute capability 7.5, needs 8.0 or later"


def test_without_triton(card, monkeypatch):
    card((9, 0), lambda device: __import__("triton"))
    monkeypatch.setitem(sys.modules, "triton", None)
    assert support.problem(CUDA) == "Triton is not installed (pip install triton)"


def test_a_driver_that_is_too_old_for_triton(card):
    card((9, 0), failing(RuntimeError("PTX was compiled with an unsupported toolchain\n  at launch")))
    expected = "Triton cannot run a kernel: PTX was compiled with an unsupported toolchain"
    assert support.problem(CUDA) == expected


def test_without_a_driver_or_a_card_of_the_number(monkeypatch):
    support.problem.cache_clear()
    error = AssertionError("Invalid device id")
    monkeypatch.setattr(torch.cuda, "get_device_capability", failing(error))
    assert support.problem(torch.device("cuda", 7)) == "Invalid device id"
    support.problem.cache_clear()


def test_a_probe_computes(monkeypatch):
    pytest.importorskip("triton", reason="no Triton here")
    from sdquant_cli.native.cuda import probe

    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.device("cpu"))
    copied, copy = [], probe.copy
    monkeypatch.setattr(probe, "copy", lambda *tensors: (copy(*tensors), copied.append(float(tensors[1]))))
    support._probe(torch.device("cpu"))
    assert copied == [1]
    monkeypatch.setattr(probe, "copy", lambda source, target: None)
    with pytest.raises(RuntimeError, match="wrong numbers"):
        support._probe(torch.device("cpu"))
