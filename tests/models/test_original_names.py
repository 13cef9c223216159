"""Names and shapes of the original code's checkpoints: diffusers reads them back as they were."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as theirs
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdquant_cli.errors import UsageProblem
from sdquant_cli.models import original_names as names
from sdquant_cli.models.families import FAMILIES
from tests.models import ldm
from tools.random_models.configurations import PIPELINES

FAMILY = {"sd-v1-4": FAMILIES[0], "sd-v2-1": FAMILIES[0], "sdxl": FAMILIES[1]}


def network(pipeline, part):
    """A network of the published configuration, on the meta device."""
    kind, config = PIPELINES[pipeline][1][part]
    with torch.device("meta"):
        if kind == "UNet2DConditionModel":
            return UNet2DConditionModel(**config)
        if kind == "AutoencoderKL":
            return AutoencoderKL(**config)
        cls = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}
        return cls[kind](CLIPTextConfig(**config))


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("pipeline", FAMILY)
def test_diffusers_reads_the_names_of_a_unet_back(pipeline):
    unet = network(pipeline, "unet")
    original = names.unet_tensors(unet.state_dict(), unet.config.layers_per_block)
    assert shapes(theirs.convert_ldm_unet_checkpoint(original, unet.config)) == shapes(unet.state_dict())


def test_diffusers_reads_the_names_of_an_autoencoder_back():
    vae = network("sd-v1-4", "vae")
    original = names.vae_tensors(vae.state_dict())
    assert original["first_stage_model.decoder.mid.attn_1.q.weight"].dim() == 4
    assert shapes(theirs.convert_ldm_vae_checkpoint(original, vae.config)) == shapes(vae.state_dict())


@pytest.mark.parametrize(
    ("pipeline", "part", "prefix"),
    [
        ("sd-v1-4", "text_encoder", None),
        ("sd-v2-1", "text_encoder", "cond_stage_model.model."),
        ("sdxl", "text_encoder", None),
        ("sdxl", "text_encoder_2", "conditioner.embedders.1.model."),
    ],
)
def test_diffusers_reads_the_names_of_a_text_encoder_back(pipeline, part, prefix):
    encoder = network(pipeline, part)
    own = {name.removeprefix("text_model."): t for name, t in encoder.state_dict().items()}
    original = names.text_tensors(part, own, FAMILY[pipeline], encoder.config.hidden_act)
    if prefix is None:
        back = theirs.convert_ldm_clip_checkpoint(original)
    else:
        back = theirs.convert_open_clip_checkpoint(encoder, original, prefix=prefix)
    assert shapes({name.removeprefix("text_model."): t for name, t in back.items()}) == shapes(own)


def test_values_of_queries_keys_and_values_are_one_matrix(tiny):
    encoder = {
        f"encoder.layers.0.self_attn.{role}_proj.bias": torch.full((2,), i) for i, role in enumerate("qkv")
    }
    joined = names.text_tensors("text_encoder_2", encoder, FAMILIES[1], "gelu")
    (name,) = joined
    assert name == "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias"
    assert joined[name].tolist() == [0, 0, 1, 1, 2, 2]


def test_the_names_are_those_of_an_independent_conversion(tiny, tmp_path):
    from safetensors.torch import load_file

    folder = tiny("sd-v1-4")
    ldm.write(folder, tmp_path / "x.safetensors")
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    ours = names.unet_tensors(unet, 1) | names.vae_tensors(vae)
    expected = load_file(tmp_path / "x.safetensors")
    assert ours.keys() == {name for name in expected if not name.startswith("cond_stage_model")}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.items())


def test_marks_of_v_prediction():
    assert names.prediction_marks({"prediction_type": "epsilon"}) == {}
    zero_snr = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    assert set(names.prediction_marks(zero_snr)) == {"v_pred", "ztsnr"}


@pytest.mark.parametrize(
    ("family", "config", "vae", "message"),
    [
        (FAMILIES[2], {"layers_per_block": 2}, "AutoencoderKL", "not Stable Diffusion 3"),
        (FAMILIES[0], {"layers_per_block": [1, 2]}, "AutoencoderKL", "needs one number for all blocks"),
        (FAMILIES[0], {"layers_per_block": 2}, "AutoencoderTiny", "holds AutoencoderKL"),
    ],
)
def test_what_the_layout_does_not_hold(family, config, vae, message):
    with pytest.raises(UsageProblem, match=message):
        names.check_layout(family, config, vae)
