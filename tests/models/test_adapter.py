"""LoRA adapters: fused as diffusers does, or refused by name."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from sdquant_cli.errors import UsageProblem
from sdquant_cli.models import adapter
from sdquant_cli.models.load import ModelName, find_model

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"  # 16 x 16
A, B = f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight"
KOHYA = f"lora_unet_{LAYER.replace('.', '_')}"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn"


@pytest.fixture(scope="module")
def sd(tiny):
    model = find_model(str(tiny("sd-v1-4")))
    return SimpleNamespace(model=model, network=model.denoiser())


@pytest.fixture
def saved(tmp_path):
    def save(tensors, metadata=None):
        path = tmp_path / "adapter.safetensors"
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata)
        return str(path)

    return save


def matrices(into=16, out=16, rank=2):
    g = torch.Generator().manual_seed(0)
    return torch.randn(rank, into, generator=g), torch.randn(out, rank, generator=g)


def kohya(name, alpha=8.0, **sizes):
    down, up = matrices(**sizes)
    names = (f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha")
    return dict(zip(names, (down, up, torch.tensor(alpha)), strict=True))


@pytest.mark.parametrize("scale", [1.0, 0.0, -0.5])
def test_alpha_over_rank_and_the_scale_multiply(sd, tiny, saved, scale):
    down, up = matrices()
    in_metadata = {"unet.r": 2, "unet.lora_alpha": 8, "unet.target_modules": [LAYER]}
    metadata = {"lora_adapter_metadata": json.dumps(in_metadata)}
    before = sd.network.get_submodule(LAYER).weight
    for file in (saved({A: down, B: up}, metadata), saved(kohya(KOHYA))):
        network = find_model(ModelName(str(tiny("sd-v1-4")), lora=file, lora_scale=scale)).denoiser()
        expected = before + scale * 8 / 2 * up @ down
        torch.testing.assert_close(network.get_submodule(LAYER).weight, expected)


def test_an_adapter_of_the_text_encoder_alone(sd, tiny, saved):
    tensors = kohya(f"{TEXT}_q_proj") | kohya(f"{TEXT}_out_proj")
    model = find_model(ModelName(str(tiny("sd-v1-4")), lora=saved(tensors)))
    assert all(
        torch.equal(a, b) for a, b in zip(model.denoiser().parameters(), sd.network.parameters(), strict=True)
    )
    encoder, before = model.text_pipeline().text_encoder, sd.model.text_pipeline().text_encoder
    down, up = matrices()
    for name in ("q_proj", "out_proj"):
        path = next(n for n, _ in before.named_modules() if n.endswith(f"layers.0.self_attn.{name}"))
        expected = before.get_submodule(path).weight + 8 / 2 * up @ down
        torch.testing.assert_close(encoder.get_submodule(path).weight, expected)


def test_alphas_that_diffusers_does_not_apply(tiny, saved):
    file = saved(kohya(f"{TEXT}_q_proj", 8.0) | kohya(f"{TEXT}_out_proj", 2.0))
    with pytest.raises(UsageProblem, match="different alphas, which diffusers does not apply"):
        find_model(ModelName(str(tiny("sd-v1-4")), lora=file)).text_pipeline()


def test_sdxl_blocks_by_their_original_numbers(tiny, saved):
    model = find_model(str(tiny("sdxl")))  # one layer a block: input block 5 is down block 2
    name = "lora_unet_input_blocks_5_1_transformer_blocks_0_attn1_to_q"
    file = saved(kohya(name) | kohya(TEXT.replace("te_", "te1_") + "_out_proj"))
    layer = "down_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q"
    down, up = matrices()
    expected = model.denoiser().get_submodule(layer).weight + 4 * up @ down
    adapted = find_model(ModelName(str(tiny("sdxl")), lora=file))
    torch.testing.assert_close(adapted.denoiser().get_submodule(layer).weight, expected)
    adapted.text_pipeline()


down, up = matrices()
NAN = torch.full_like(down, torch.nan)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({A: down}, "and not the other half"),
        ({f"{KOHYA}.lora_up.weight": up}, "and not the other half"),
        ({A: torch.tensor(1.0), B: torch.tensor(1.0)}, "expected two matrices of the same rank"),
        ({A: down[0], B: up[0]}, "expected two matrices"),
        ({A: down, B: up[:, :1]}, "expected two matrices"),
        ({A: down.to(torch.int8), B: up.to(torch.int8)}, "expected floating-point"),
        ({A: NAN, B: up}, r"lora_A\.weight has numbers that are not finite"),
        (kohya(KOHYA) | {f"{KOHYA}.alpha": torch.ones(2)}, "alpha has 2 numbers"),
        (kohya(KOHYA) | {f"{KOHYA}.dora_scale": torch.ones(16, 1)}, "is DoRA"),
        ({f"{KOHYA}.hada_w1_a": up}, "is LoHa"),
        ({f"{KOHYA}.lokr_w1": up}, "is LoKr"),
        ({"lora_controlnet": torch.ones(1)}, "is a ControlNet-LoRA"),
        ({f"{KOHYA}.diff": up}, "diffusers cannot read it"),
        ({"x": up}, "x is no part of a LoRA"),
        ({}, "is empty"),
        ({A: torch.randn(2, 17), B: up}, "has 16 channels, and the adapter's 17; is it for another family"),
        (kohya("lora_te2_text_model_encoder_layers_0_self_attn_out_proj"), "another family"),
        (kohya("lora_unet_input_blocks_5_1_transformer_blocks_0_attn1_to_q"), "has no down_blocks"),
        ({A.replace("unet", "transformer"): down, B.replace("unet", "transformer"): up}, "for no component"),
    ],
)
def test_what_cannot_be_fused_is_named(sd, saved, tensors, says):
    with pytest.raises(UsageProblem, match=says) as caught:
        adapter.fuse_into_denoiser(sd.model.pipeline_class, sd.network, saved(tensors), 1.0)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["{", "[1]", '{"unet.x": 1}'])
def test_metadata_that_makes_no_sense(sd, saved, text):
    file = saved({A: down, B: up}, {"lora_adapter_metadata": text})
    with pytest.raises(UsageProblem, match="diffusers cannot"):
        adapter.fuse_into_denoiser(sd.model.pipeline_class, sd.network, file, 1.0)
