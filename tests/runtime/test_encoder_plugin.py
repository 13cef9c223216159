"""What transformers asks of the quantizer; that it loads and saves encoders is in test_components.py."""

import pytest
import torch
from transformers import T5Config
from transformers.models.t5 import modeling_t5

from sdquant_cli.quant.format import NumberFormat
from sdquant_cli.quant.rows import Rows
from sdquant_cli.runtime.encoder_plugin import EncoderQuantizer, T5DenseGatedActDense
from sdquant_cli.runtime.layers import PackedSpec, packed
from sdquant_cli.runtime.plugin import SdquantConfig
from sdquant_cli.types import Bits


@pytest.fixture
def network():
    spec = PackedSpec(Bits(4, 8), NumberFormat(per_token=True, full_range=True), 0, text_fed=False)
    layer = packed(torch.nn.Linear(4, 2), spec, Rows(()))
    layer.expect_weight()
    return torch.nn.Sequential(layer, torch.nn.Linear(2, 2))


def test_only_floating_point_weights_of_packed_layers_are_rounded(network):
    on_the_fly = EncoderQuantizer(SdquantConfig(bits="w4a8"), pre_quantized=False)
    needing = [name for name in network.state_dict() if on_the_fly.param_needs_quantization(network, name)]
    assert needing == ["0.weight"]
    loaded = EncoderQuantizer(SdquantConfig(bits="w4a8"), pre_quantized=True)
    assert not loaded.param_needs_quantization(network, "0.weight")
    assert loaded.is_serializable()
    assert not loaded.is_trainable


def test_a_weight_fills_its_layer_and_nothing_is_missing(network):
    weight, missing = torch.tensor([[1.0, -8, 3, 4], [0, 0, 0, 7]]), set(network.state_dict())
    rounding = EncoderQuantizer(SdquantConfig(bits="w4a8"), pre_quantized=False).get_quantize_ops()
    given = {"model": network, "full_layer_name": "0.weight", "missing_keys": missing}
    assert rounding.convert({"0.weight": [weight]}, [], [], **given) == {}
    assert torch.equal(network[0].codes().float() * network[0].weight_step[:, None], weight)
    assert missing == {"0.bias", "1.weight", "1.bias"}


def test_t5s_block_is_transformers_own_but_for_a_cast():
    torch.manual_seed(0)
    config = T5Config(d_model=8, d_ff=16, feed_forward_proj="gated-gelu")
    block = modeling_t5.T5DenseGatedActDense(config).eval()
    x = torch.randn(2, 3, 8)
    expected = block(x)
    block.__class__ = T5DenseGatedActDense
    assert torch.equal(block(x), expected)
    block.wo.weight = torch.nn.Parameter(block.wo.weight.double(), requires_grad=False)
    with pytest.raises(RuntimeError):
        block(x)  # what the last layer reads is not cast to the dtype of its weight
