"""Losses: against their equations, element by element."""

import pytest
import torch

from sdquant_cli.calibration.losses import (
    collecting_outputs,
    energies,
    feature_loss,
    guided_loss,
    output_loss,
)
from tests.calibration.toy import items, quantized


def test_losses_are_equations_11_and_12():
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    expected = sum((p - q) ** 2 for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 6
    assert output_loss(a, b).item() == pytest.approx(expected, rel=1e-5)
    teacher = {"x": torch.full((2,), 2.0), "y": torch.full((2,), 10.0)}
    student = {"x": torch.full((2,), 3.0), "y": torch.full((2,), 10.0)}
    assert feature_loss(student, teacher, ["x", "y"], energies(teacher)).item() == pytest.approx(
        (1 / 4 + 0) / 2
    )


def test_hooks_leave_nothing_behind():
    teacher, *_ = quantized()
    with collecting_outputs(teacher, ["conv"]) as outputs:
        batch = items().batch([0], torch.device("cpu"))
        teacher(batch.x, batch.timestep, batch.conditioning.tokens)
        assert outputs["conv"].shape == (2, 64, 4, 4)
    assert not any(module._forward_hooks for module in teacher.modules())


def test_the_guided_loss_is_the_error_of_what_sampling_uses():
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    expected = sum(
        float(((a[i] + 3 * (a[i + 2] - a[i])) - (b[i] + 3 * (b[i + 2] - b[i]))).square().sum())
        for i in (0, 1)
    )
    assert guided_loss(a, b, 3.0).item() == pytest.approx(expected / 6, rel=1e-5)
