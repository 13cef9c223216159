"""Blocks around integer products compute what diffusers' blocks compute, and leave to them what they must."""

import copy
import inspect

import diffusers
import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from peft import LoraConfig

import sdquant_cli
from sdquant_cli.metrics.ratios import snr
from sdquant_cli.native import products as kernels
from sdquant_cli.runtime import blocks, engines, row_codes
from sdquant_cli.runtime.network import use_engine

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no C compiler here")
ROUNDED_FINELY = 16  # bits of inputs: a value on the other side of a tie changes next to nothing


def unet(folder, bits=ROUNDED_FINELY, **options):
    config = sdquant_cli.SdquantConfig(bits=f"w8a{bits}")
    kind = diffusers.UNet2DConditionModel
    network = kind.from_pretrained(folder, subfolder="unet", quantization_config=config, **options)
    use_engine(network, engines.integer)
    return network


@pytest.fixture(scope="module", params=["sd-v1-4", "sd-v2-1", "sdxl"])
def network(request, tiny):
    return unet(tiny(request.param))


@pytest.fixture
def normed(monkeypatch):
    """The group norms that were computed before a rounding."""
    calls, kernel = [], blocks.group_norm

    def counted(norm, *told, **options):
        calls.append(norm)
        return kernel(norm, *told, **options)

    monkeypatch.setattr(blocks, "group_norm", counted)
    return calls


def predicted(network, items=2, side=16, **more):
    g = torch.Generator().manual_seed(0)
    config = network.config
    x = torch.randn(items, config.in_channels, side, side, generator=g)
    text = torch.randn(items, 5, config.cross_attention_dim, generator=g)
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(items, width, generator=g), "time_ids": torch.ones(items, 6)}
        more["added_cond_kwargs"] = added
    with torch.no_grad():
        dtype = network.dtype if network.dtype.is_floating_point else torch.float32
        return network(x.to(dtype), torch.tensor(500.0), text.to(dtype), **more).sample.float()


def agree(a, b, decibels):
    return float(snr(a.flatten()[None], b.flatten()[None])) > decibels


def as_diffusers_computes(network):
    other = copy.deepcopy(network)
    use_engine(other, engines.dequantized)
    return other


def test_a_network_on_codes_is_the_network_that_diffusers_computes(network, normed):
    expected = predicted(as_diffusers_computes(network))
    assert not normed
    assert agree(expected, predicted(network), 80)
    resnets = sum(isinstance(module, ResnetBlock2D) for module in network.modules())
    transformers = sum(isinstance(module, Transformer2DModel) for module in network.modules())
    assert len(normed) == 2 * resnets + transformers


def test_in_bfloat16(tiny):
    network = unet(tiny("sd-v1-4"), torch_dtype=torch.bfloat16)
    assert agree(predicted(as_diffusers_computes(network)), predicted(network), 30)


@pytest.mark.parametrize("place", ["conv1", "norm1", "nonlinearity"])
def test_a_hook_within_a_block_is_called(network, normed, place):
    network = copy.deepcopy(network)
    block = next(module for module in network.modules() if isinstance(module, ResnetBlock2D))
    seen = []
    getattr(block, place).register_forward_hook(lambda *_: seen.append(1))
    predicted(network)
    assert seen
    assert not {block.norm1, block.norm2} & set(normed)


def test_a_forward_that_replaces_one_within_a_block_is_called(network, normed):
    """As accelerate's hooks do."""
    network, seen = copy.deepcopy(network), []
    block = next(module for module in network.modules() if isinstance(module, ResnetBlock2D))
    original = block.conv1.forward
    block.conv1.forward = lambda x: seen.append(1) or original(x)
    predicted(network)
    assert seen
    assert not {block.norm1, block.norm2} & set(normed)


def test_an_adapter_is_applied(tiny, normed):
    network = unet(tiny("sd-v1-4"))
    before = predicted(network)
    config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    network.add_adapter(config)
    assert not agree(before, predicted(network), 40)
    assert agree(predicted(as_diffusers_computes(network)), predicted(network), 60)
    network.disable_adapters()
    assert agree(before, predicted(network), 80)


def test_a_mask_reaches_attention(network):
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    masked = predicted(network, encoder_attention_mask=mask)
    assert not agree(predicted(network), masked, 40)
    assert agree(predicted(as_diffusers_computes(network), encoder_attention_mask=mask), masked, 80)


def test_q_k_and_v_share_codes_where_they_round_alike(network, monkeypatch):
    made = []
    monkeypatch.setattr(blocks, "codes_of", lambda *a: made.append(1) or row_codes.codes_of(*a))
    block = next(module for module in network.modules() if isinstance(module, BasicTransformerBlock))
    x, text = torch.randn(2, 9, block.dim), torch.randn(2, 5, network.config.cross_attention_dim)
    with torch.no_grad():
        block(x, encoder_hidden_states=text)
        assert len(made) == 1 + 1 + 1 + 1 + 2  # q k v; out; q; out; feed-forward
        other = copy.deepcopy(block)
        other.attn1.to_k.smoothing = torch.linspace(0.5, 2, block.dim)
        made.clear()
        other(x, encoder_hidden_states=text)
    assert len(made) == 7


def test_they_have_the_names_and_take_the_arguments_of_diffusers_blocks():
    for original, ours in blocks._REPLACED.items():
        assert ours.__name__ == original.__name__
        told = inspect.signature(original.forward).parameters
        assert set(inspect.signature(ours.forward).parameters) - {"more", "others"} <= set(told)
