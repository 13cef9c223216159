"""A device's kernels: those in C on a CPU, and Triton's only where they serve."""

import subprocess
import sys

import torch

from sdquant_cli.native import cuda
from sdquant_cli.runtime import kernels, row_codes


def test_a_cpu_has_kernels_in_c_and_cuda_has_others(monkeypatch):
    cpu = torch.device("cpu")
    assert kernels.dtypes(cpu) == row_codes.DTYPES
    assert torch.float16 in kernels.dtypes(torch.device("cuda"))
    monkeypatch.setattr(cuda, "interpreted", True)
    assert torch.float16 in kernels.dtypes(cpu)


def test_on_a_cpu_triton_is_not_imported():
    code = """
import sys, torch
sys.modules["triton"] = None
from sdquant_cli.runtime import engines, kernels, layers
from sdquant_cli.quant.format import NumberFormat
from sdquant_cli.quant.rows import Rows
from sdquant_cli.types import Bits
form = NumberFormat(per_token=True)
layer = layers.packed(torch.nn.Linear(16, 8), layers.PackedSpec(Bits(8, 8), form, 0, False), Rows([]))
assert layer is not None and kernels.dtypes(torch.device("cpu"))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
