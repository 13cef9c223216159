"""oneDNN's products against the reference, of weights that this CPU multiplies exactly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdquant_cli.quant.format import PAPER, NumberFormat
from sdquant_cli.runtime import engines, onednn
from sdquant_cli.types import Bits
from tests.runtime.packed_layers import largest_sum, outputs, packed_layer, saved_layer


@pytest.mark.parametrize("form", [NumberFormat(per_token=True), NumberFormat(group_size=8)])
def test_it_computes_layers_with_one_scale_for_each_output(monkeypatch, form):
    monkeypatch.setattr(onednn, "sums_exactly", lambda: True)
    assert onednn.computes(PAPER)
    assert not onednn.computes(form)
    monkeypatch.setattr(onednn, "sums_exactly", lambda: False)
    assert not onednn.computes(PAPER)


def test_a_torch_without_onednn_sums_nothing_exactly(monkeypatch):
    onednn.sums_exactly.cache_clear()
    monkeypatch.setattr(torch.ops, "onednn", object())
    assert not onednn.sums_exactly()
    onednn.sums_exactly.cache_clear()


LAYERS = [
    nn.Linear(33, 17),
    nn.Conv2d(33, 17, 3, padding=(2, 1), stride=2),
    nn.Conv2d(33, 17, 1),
    nn.Conv2d(8, 12, 3, groups=2, dilation=2),
]


WEIGHT_BITS = st.integers(2, 8 if onednn.sums_exactly() else 7)  # 7: pairs of products fit 16 bits


@pytest.mark.parametrize("layer", LAYERS)
@given(bits=st.builds(Bits, WEIGHT_BITS, st.integers(2, 16)), seed=st.integers(0, 99))
def test_products_are_those_of_the_reference(layer, bits, seed):
    shape = [33] if isinstance(layer, nn.Linear) else [layer.in_channels, 7, 6]
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)) * 3
    saved = saved_layer(layer, bits, 1, seed=seed)
    ours, reference = outputs(packed_layer(layer, saved), x, onednn.integer, engines.reference)
    assert float((ours - reference).abs().max()) < 1e-6 * (largest_sum(saved, x) + 1)
