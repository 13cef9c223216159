"""The choice of an engine; that all of them compute the same is tested with the layers."""

import pytest
import torch
from torch import nn

from sdquant_cli.errors import EnvironmentProblem
from sdquant_cli.quant.format import PAPER, NumberFormat
from sdquant_cli.quant.rows import Rows
from sdquant_cli.runtime import engines
from sdquant_cli.runtime.layers import PackedSpec, packed
from sdquant_cli.types import Bits, Execution

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TOKENS = NumberFormat(per_token=True)


def machine(monkeypatch, *, kernels, onednn):
    """A CPU that has our kernels or not, and on which oneDNN's products are exact or not."""
    monkeypatch.setattr(engines.products, "available", lambda: kernels)
    monkeypatch.setattr(engines.onednn, "sums_exactly", lambda: onednn)


@pytest.mark.parametrize("form", [PAPER, TOKENS, NumberFormat(group_size=8)])
def test_kernels_of_our_own_compute_every_format_with_integers(monkeypatch, form):
    machine(monkeypatch, kernels=True, onednn=False)
    assert engines.choose(CPU, form) is Execution.INTEGER


@pytest.mark.parametrize(("form", "expected"), [(PAPER, Execution.INTEGER), (TOKENS, Execution.DEQUANTIZED)])
def test_without_a_compiler_integers_need_calibrated_inputs(monkeypatch, form, expected):
    machine(monkeypatch, kernels=False, onednn=True)
    assert engines.choose(CPU, form) is expected


@pytest.mark.parametrize(("form", "onednn"), [(PAPER, False), (TOKENS, True)])
def test_where_nothing_computes_with_integers_they_are_refused(monkeypatch, form, onednn):
    machine(monkeypatch, kernels=False, onednn=onednn)
    assert engines.choose(CPU, form) is Execution.DEQUANTIZED
    with pytest.raises(EnvironmentProblem, match=r"C compiler.*use --engine auto"):
        engines.choose(CPU, form, Execution.INTEGER)


@pytest.mark.parametrize("form", [PAPER, TOKENS, NumberFormat(group_size=8)])
def test_a_gpu_that_runs_the_kernels_computes_every_format_with_integers(monkeypatch, form):
    monkeypatch.setattr(engines.support, "problem", lambda device: None)
    assert engines.choose(CUDA, form, Execution.INTEGER) is Execution.INTEGER
    assert engines.choose(CUDA, form) is Execution.DEQUANTIZED  # until the kernels have run on a GPU


def test_a_gpu_that_does_not_says_why(monkeypatch):
    monkeypatch.setattr(engines.support, "problem", lambda device: "it is from 2017")
    assert engines.choose(CUDA, TOKENS) is Execution.DEQUANTIZED
    with pytest.raises(EnvironmentProblem, match="--engine integer: it is from 2017; use --engine auto"):
        engines.choose(CUDA, TOKENS, Execution.INTEGER)


def test_other_devices_have_no_integers():
    meta = torch.device("meta")
    assert engines.choose(meta, PAPER) is Execution.DEQUANTIZED
    with pytest.raises(EnvironmentProblem, match="needs a CPU or CUDA, found meta"):
        engines.choose(meta, PAPER, Execution.INTEGER)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_weights_become_floats_where_that_is_requested(monkeypatch, device):
    machine(monkeypatch, kernels=True, onednn=True)
    assert engines.choose(device, PAPER, Execution.DEQUANTIZED) is Execution.DEQUANTIZED


def layer_of(form):
    return packed(nn.Linear(16, 8), PackedSpec(Bits(4, 8), form, 0, text_fed=False), Rows([1.0]))


@pytest.mark.parametrize(
    ("form", "kernels", "onednn", "expected"),
    [
        (PAPER, True, True, "onednn"),
        (PAPER, True, False, "products"),
        (TOKENS, True, True, "products"),
        (PAPER, False, True, "onednn"),
        (TOKENS, False, True, "dequantized"),
        (NumberFormat(group_size=4), True, True, "dequantized"),  # our kernels take whole lines of 8 codes
    ],
)
def test_what_computes_a_layer_with_integers(monkeypatch, form, kernels, onednn, expected):
    machine(monkeypatch, kernels=kernels, onednn=onednn)
    monkeypatch.setattr(engines.onednn, "integer", lambda layer: "onednn")
    monkeypatch.setattr(engines.kernels, "Integer", lambda layer: "products")
    monkeypatch.setattr(engines, "dequantized", lambda layer: "dequantized")
    assert engines.integer(layer_of(form)) == expected
