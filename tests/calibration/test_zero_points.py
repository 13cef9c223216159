"""Zero-points in training."""

import pytest
import torch

from sdquant_cli.calibration.zero_points import TrainedZeroPoints
from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.relaxing import RelaxedRows
from sdquant_cli.types import Bits
from tests.calibration.toy import items, quantized


@pytest.fixture
def student():
    _, student, *_ = quantized(Bits(8, 4))
    return student


def test_shares_are_of_the_grid_of_each_row(student):
    relaxed = torch.tensor([False, True, False])
    student.conv.relaxed = RelaxedRows(relaxed, Grid(10, signed=False))
    zeros = student.conv.activation_zero.clone()
    trained = TrainedZeroPoints(student)
    highest = torch.tensor([15.0, 1023.0, 15.0])
    assert torch.equal(trained.shares[0], zeros / highest)
    trained.write()
    torch.testing.assert_close(student.conv.activation_zero.detach(), zeros)


def test_what_leaves_the_grid_is_put_back(student):
    trained = TrainedZeroPoints(student)
    trained.shares[0][:] = torch.tensor([-0.2, 0.5, 1.3])
    trained.write()
    assert student.conv.activation_zero.tolist() == [0.0, 7.5, 15.0]


def test_gradients_pass_the_rounding_and_are_of_the_share(student):
    trained = TrainedZeroPoints(student)
    batch = items().batch([0, 1], torch.device("cpu"))
    assert trained.gradients == []
    student(batch.x * 3, batch.timestep, batch.conditioning.tokens).sample.square().sum().backward()
    trained.give_gradients()
    assert len(trained.gradients) == 3
    for share, zero in zip(trained.shares, trained.gradients, strict=True):
        assert torch.equal(share.grad, zero * 15)
    trained.forget_gradients()
    assert trained.gradients == []
