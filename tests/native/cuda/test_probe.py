"""The smallest kernel."""

import pytest
import torch

probe = pytest.importorskip("sdquant_cli.native.cuda.probe", reason="no Triton here")


def test_a_number_is_copied():
    target = torch.zeros(1)
    probe.copy(torch.tensor([7.0]), target)
    assert target.item() == 7
