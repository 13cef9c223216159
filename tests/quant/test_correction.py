"""The output's correction against its definition: a line through all elements, a mean by channel, a rest."""

from types import SimpleNamespace

import pytest
import torch
from scipy.stats import linregress
from torch import nn

from sdquant_cli.quant.correction import Correction, ErrorMoments, correct_outputs
from sdquant_cli.quant.rows import Rows

ROWS, CHANNELS = 5, 4


def pairs_of(row, k=0.5, noise=0.2, seed=0):
    """Outputs (N,C,3,3) of both networks at rows `row`, the error leaning on the output by k."""
    stream = torch.Generator().manual_seed(seed)
    eps = torch.randn(len(row), CHANNELS, 3, 3, generator=stream) + 0.3
    rest = torch.randn(eps.shape, generator=stream) * noise + torch.arange(CHANNELS).view(-1, 1, 1) / 10
    return (1 + k) * eps + rest, eps


def reference(quantized, floating):
    """k, b (C) and sigma of one row."""
    error = quantized - floating
    line = linregress(floating.flatten().numpy(), error.flatten().numpy())
    k = max(0.0, float(line.slope))
    rest = error - k * floating
    b = rest.mean((0, 2, 3))
    return k, b, float((rest - b.view(-1, 1, 1)).square().mean().sqrt())


@pytest.mark.parametrize("k", [0.5, -0.5])
def test_each_row_is_the_reference_whatever_the_batches(k):
    row = torch.tensor([0, 2, 2, 0, 4, 1, 3, 2, 2])
    quantized, floating = pairs_of(row, k)
    pairs = ErrorMoments(ROWS, CHANNELS)
    for part in torch.arange(len(row)).split(4):
        pairs.add(quantized[part], floating[part], row[part])
    found = pairs.correction()
    for r in range(ROWS):
        slope, bias, std = reference(quantized[row == r], floating[row == r])
        assert float(found.slope[r]) == pytest.approx(slope, abs=1e-5)
        torch.testing.assert_close(found.bias[r], bias, atol=1e-5, rtol=1e-4)
        assert float(found.std[r]) == pytest.approx(std, rel=1e-4)
    assert bool((found.slope > 0.3 if k > 0 else found.slope == 0).all())


def test_a_row_without_data_takes_the_nearest():
    row = torch.tensor([1, 4])
    pairs = ErrorMoments(ROWS, CHANNELS)
    pairs.add(*pairs_of(row), row)
    found = pairs.correction()
    assert found.slope.tolist() == found.slope[torch.tensor([1, 1, 1, 4, 4])].tolist()
    assert found.slope[1] != found.slope[4]
    with pytest.raises(ValueError, match="no outputs"):
        ErrorMoments(ROWS, CHANNELS).correction()


class Network(nn.Module):
    """Gives what it is given, with a known error at each step."""

    def __init__(self, known: Correction) -> None:
        super().__init__()
        self.known = known

    def forward(self, x, timestep):
        row = (timestep / 10).long().expand(len(x))
        slope, bias = self.known.slope[row].view(-1, 1, 1, 1), self.known.bias[row].view(len(x), -1, 1, 1)
        return SimpleNamespace(sample=(1 + slope) * x + bias)


def test_a_known_error_is_taken_back_by_the_rows_of_the_call():
    known = Correction(torch.rand(ROWS), torch.randn(ROWS, CHANNELS), torch.zeros(ROWS))
    network, rows = Network(known), Rows([0, 10, 20, 30, 40])
    rows.follow(network)
    correct_outputs(network, known, rows)
    x = torch.randn(3, CHANNELS, 2, 2)
    for timestep in (torch.tensor([20.0]), torch.tensor([40.0, 0.0, 10.0])):
        torch.testing.assert_close(network(x, timestep).sample, x)


def test_correcting_both_outputs_is_correcting_the_guided_one():
    without, given = torch.randn(2, 1, CHANNELS, 2, 2)
    known = Correction(torch.rand(ROWS), torch.randn(ROWS, CHANNELS), torch.zeros(ROWS))
    row = torch.tensor([3])

    def guided(a, b):
        return a + 7.5 * (b - a)

    each = guided(known.apply(without, row), known.apply(given, row))
    torch.testing.assert_close(each, known.apply(guided(without, given), row), atol=1e-5, rtol=1e-4)
