"""Packed layers under torch.compile: the kernels are operators that it knows the shapes of."""

import pytest
import torch
from torch import nn

from sdquant_cli.quant.grid import Grid
from sdquant_cli.quant.tokens import TokenQuantizer
from sdquant_cli.runtime import blocks, engines, kernels
from sdquant_cli.runtime.cuda import products, row_codes
from sdquant_cli.types import Bits
from tests.runtime.cuda.test_blocks import first
from tests.runtime.cuda.test_products import GROUPS, STATIC, TOKENS
from tests.runtime.test_blocks import unet
from tests.runtime.test_products import both_layers, input_of, random, twin_of

pytestmark = pytest.mark.usefixtures("interpreted")


@pytest.fixture(autouse=True)
def nothing_compiled():
    """torch compiles the same code for a few layers only, each by itself."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@both_layers
@pytest.mark.parametrize("form", [STATIC, TOKENS, GROUPS], ids=["static", "tokens", "groups"])
def test_a_layer_is_one_graph_and_computes_the_same(layer, form):
    twin, x = twin_of(layer, form, Bits(4, 8)), input_of(layer)
    twin.use(engines.integer)
    twin.requires_grad_(False)
    expected = twin(x)
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)


@pytest.mark.parametrize("kind", [blocks.ResnetBlock2D, blocks.BasicTransformerBlock])
def test_a_block_is_one_graph_and_computes_the_same(tiny, kind, monkeypatch):
    monkeypatch.setattr("sdquant_cli.native.attention.available", lambda dtype: False)  # as on a GPU
    network = unet(tiny("sd-v1-4/two-blocks"), 8).requires_grad_(False)
    block = first(network, kind)
    if kind is blocks.ResnetBlock2D:
        inputs = random(1, block.in_channels, 4, 3), random(1, block.time_emb_proj.in_features)
    else:
        inputs = random(1, 5, block.dim), None, random(1, 4, network.config.cross_attention_dim)
    with torch.no_grad():
        expected = block(*inputs)
        assert torch.equal(torch.compile(block, backend="eager", fullgraph=True)(*inputs), expected)


def test_the_operators_are_as_torch_asks_of_operators():
    twin = twin_of(nn.Conv2d(16, 8, 3, padding=1), TOKENS, Bits(4, 16)).requires_grad_(False)
    x, seen = random(1, 3, 4, 16), {}
    norm = nn.GroupNorm(4, 16).requires_grad_(False)
    places = {"group_norm": (row_codes, "_group_norm"), "codes": (row_codes, "_written")}
    with pytest.MonkeyPatch.context() as patch:
        for name, (module, function) in (places | {"product": (products, "_multiplied")}).items():
            called = getattr(module, function)
            patch.setattr(module, function, lambda *a, n=name, f=called: seen.update({n: a}) or f(*a))
        prologue = kernels.group_norm(norm, x, silu=True)
        codes = kernels.codes_of(x, TokenQuantizer(-1, Grid(16, signed=False)), None, prologue)
        kernels.product(twin)(codes, torch.float32)
    for name, arguments in seen.items():
        operator = getattr(torch.ops.sdquant, name).default
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
    assert len(seen) == 3
