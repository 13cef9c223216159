"""Whole networks as CUDA computes them, by interpreted kernels, against what diffusers computes."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel

import sdquant_cli
from sdquant_cli.quant.tokens import TokenQuantizer
from sdquant_cli.runtime import blocks, engines, kernels
from sdquant_cli.runtime.network import use_engine
from tests.runtime.test_blocks import agree, as_diffusers_computes, predicted, unet

pytestmark = pytest.mark.usefixtures("interpreted")


@pytest.fixture
def launched(monkeypatch):
    """The kinds of kernels that were called."""
    calls = []
    for name in ("codes_of", "group_norm", "layer_norm"):
        kernel = getattr(kernels, name)
        monkeypatch.setattr(blocks, name, lambda *a, k=kernel, n=name, **o: calls.append(n) or k(*a, **o))
    return calls


def test_a_network_on_codes_is_the_network_that_diffusers_computes(tiny, launched):
    network = unet(tiny("sd-v1-4/two-blocks"))
    expected = predicted(as_diffusers_computes(network), side=4)
    assert not launched
    assert agree(expected, predicted(network, side=4), 80)
    assert set(launched) == {"codes_of", "group_norm", "layer_norm"}


def first(network, kind):
    return next(module for module in network.modules() if isinstance(module, kind))


def test_a_block_of_4_bit_weights_in_half_precision(tiny):
    options = {"subfolder": "unet", "quantization_config": sdquant_cli.SdquantConfig(bits="w4a16")}
    folder = tiny("sd-v1-4/two-blocks")
    network = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float16, **options)
    use_engine(network, engines.integer)
    ours, theirs = (first(unet, blocks.ResnetBlock2D) for unet in (network, as_diffusers_computes(network)))
    x = torch.randn(2, ours.in_channels, 4, 3).half()
    time = torch.randn(1, ours.time_emb_proj.in_features).half()
    with torch.no_grad():
        assert agree(theirs(x, time).float(), ours(x, time).float(), 50)


def test_what_rounds_inputs_alike_is_known_without_comparing_tensors(tiny, monkeypatch):
    block = first(unet(tiny("sd-v1-4/two-blocks")), blocks.BasicTransformerBlock)
    other = copy.deepcopy(block.attn1.to_k)
    other.smoothing = torch.linspace(0.5, 2, other.in_features)
    for layer in (block.attn1.to_q, block.attn1.to_k, other):
        layer.prepared()
    monkeypatch.setattr(torch, "equal", None)
    monkeypatch.setattr(TokenQuantizer, "__eq__", None)
    assert blocks._round_alike(block.attn1.to_q, block.attn1.to_k)
    assert not blocks._round_alike(block.attn1.to_q, other)
