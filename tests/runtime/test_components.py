"""Text encoders and the autoencoder, packed: `sdquant quantize --components`."""

import json
import shutil

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import sdquant_cli
from sdquant_cli.errors import DamagedArtifact, UsageProblem
from sdquant_cli.metrics.ratios import snr
from sdquant_cli.models.load import EMBEDDED_FOLDER
from sdquant_cli.runtime import components
from sdquant_cli.runtime.network import packed_layers
from tests.conftest import Sdquant
from tests.runtime.exports import draw, psnr, quiet
from tools.random_models.make import make

SD3 = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")


def quantize(*words, code=0):
    return Sdquant("unused").without_store("quantize", *words, code=code)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The embedded model with a packed text encoder and autoencoder, its UNet as it is."""
    folder = tmp_path_factory.mktemp("components") / "shapes"
    words = ("--components", "text_encoder=w4a8,vae", "--group-size", 32)
    quantize("shapes", *words, "--output", folder)
    return folder


@pytest.fixture(scope="module")
def sd3(tiny, tmp_path_factory):
    """A tiny SD3 with T5, all of whose networks are packed in 4 bits, but for the autoencoder."""
    folder = tmp_path_factory.mktemp("components") / "sd3"
    words = ("--components", "all", "--bits", "w4a8", "--group-size", 8)
    quantize(tiny("sd3-medium-t5"), *words, "--output", folder)
    return folder


def test_a_folder_of_packed_components_draws_as_the_model_does(shapes):
    drawn = [
        draw(diffusers.DiffusionPipeline.from_pretrained(folder)) for folder in (shapes, EMBEDDED_FOLDER)
    ]
    assert psnr(*drawn) > 20
    loaded = sdquant_cli.load(shapes)
    assert (draw(loaded) == drawn[0]).all()
    encoder, vae = packed_layers(loaded.text_encoder), packed_layers(loaded.vae)
    assert {layer.weight.dtype for layer in encoder.values()} == {torch.uint8}
    assert {layer.weight.dtype for layer in vae.values()} == {torch.int8}
    assert not packed_layers(loaded.unet)


def test_what_is_not_named_is_copied_and_the_rest_is_as_small_as_it_says(shapes):
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert (shapes / unet).read_bytes() == (EMBEDDED_FOLDER / unet).read_bytes()
    recipe = json.loads((shapes / "recipe.json").read_text())
    assert recipe["components"]["text_encoder"].items() >= {"bits": "w4a8", "group_size": 32}.items()
    assert recipe["components"]["vae"]["bits"] == "w8a16"
    for part, fields in recipe["components"].items():
        size = sum(file.stat().st_size for file in (EMBEDDED_FOLDER / part).glob("*.safetensors"))
        assert fields["bytes"] < 0.9 * size


def test_the_layers_at_the_ends_stay_in_floating_point(shapes, sd3):
    vae = json.loads((shapes / "vae" / "config.json").read_text())["quantization_config"]
    edges = {f"{half}.{edge}" for half in ("encoder", "decoder") for edge in ("conv_in", "conv_out")}
    assert set(vae["floating"]) == {*edges, "quant_conv", "post_quant_conv"}
    t5 = json.loads((sd3 / "text_encoder_3" / "config.json").read_text())["quantization_config"]
    first, last = "layer.0.SelfAttention.q", "layer.1.DenseReluDense.wo"
    assert t5["floating"] == [f"encoder.block.0.{first}", f"encoder.block.1.{last}"]


def test_verify_replays_a_call_of_each(shapes, sd3, sdquant):
    said = sdquant("verify", sd3).stdout
    for part in SD3[1:]:
        assert f"signal to noise of {part}, dB, dequantized" in said
    said = sdquant("verify", shapes).stdout
    assert "signal to noise of vae" in said
    assert "dB, fp" not in said  # the UNet is a copy


def test_a_pipeline_with_t5_loads_and_draws(sd3):
    pipeline = quiet(diffusers.DiffusionPipeline.from_pretrained(sd3))
    assert all(packed_layers(getattr(pipeline, part)) for part in SD3)
    assert pipeline.text_encoder_3.dtype is torch.bfloat16
    pipeline.to(torch.float32)
    drawn = pipeline("a cat", num_inference_steps=2, height=64, width=64, output_type="latent").images
    assert bool(drawn.isfinite().all())


@pytest.mark.parametrize("part", SD3[1:4])
def test_an_encoder_is_close_to_the_models_and_comes_back_from_save_pretrained(sd3, tiny, part, tmp_path):
    cls = getattr(transformers, json.loads((sd3 / "model_index.json").read_text())[part][1])
    folders = (tiny("sd3-medium-t5") / part, sd3 / part)
    theirs, ours = (cls.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        first = theirs(ids).last_hidden_state, ours(ids).last_hidden_state
        assert float(snr(first[0], first[1])) > 12
        ours.save_pretrained(tmp_path)
        again = cls.from_pretrained(tmp_path, dtype=torch.float32)(ids).last_hidden_state
        assert torch.equal(again, first[1])
        half = cls.from_pretrained(sd3 / part, dtype=torch.bfloat16)(ids).last_hidden_state
    assert half.dtype is torch.bfloat16
    assert float(snr(first[1], half.float())) > 25


def test_packed_while_loading_it_is_the_folders(tiny, sd3):
    config = sdquant_cli.SdquantConfig(bits="w4a8", group_size=8)
    mapping = diffusers.PipelineQuantizationConfig(quant_mapping={"text_encoder_3": config})
    source = tiny("sd3-medium-t5")
    loaded = diffusers.DiffusionPipeline.from_pretrained(source, quantization_config=mapping)
    ids = torch.arange(20)[None]
    stored = transformers.T5EncoderModel.from_pretrained(sd3 / "text_encoder_3", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded.text_encoder_3(ids)[0], stored(ids)[0])
    assert not packed_layers(loaded.text_encoder)


def test_numbers_of_fp16_are_stored_in_fp16(tmp_path):
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "model")
    file = tmp_path / "model" / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    name, other = (f"embeddings.{kind}_embedding.weight" for kind in ("token", "position"))
    tensors[name] = tensors[name].half().float()
    tensors[other] = tensors[other] + 2.0**-20
    save_file(tensors, file, {"format": "pt"})
    quantize(tmp_path / "model", "--components", "text_encoder", "--output", tmp_path / "out")
    written = load_file(tmp_path / "out" / "text_encoder" / "model.safetensors")
    assert written[name].dtype is torch.float16
    assert torch.equal(written[name].float(), tensors[name])
    assert torch.equal(written[other], tensors[other])
    loaded = transformers.CLIPTextModel.from_pretrained(tmp_path / "out" / "text_encoder")
    assert loaded.get_input_embeddings().weight.dtype is torch.float32


def test_a_changed_file_is_named_when_it_is_loaded(shapes, tmp_path, sdquant):
    folder = shutil.copytree(shapes, tmp_path / "model")
    file = folder / "text_encoder" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedArtifact, match=r"model\.safetensors: has changed since it was written"):
        transformers.CLIPTextModel.from_pretrained(folder / "text_encoder")
    assert "has changed" in sdquant("verify", folder, code=3).stderr


def test_a_stored_call_of_another_network_is_damage(shapes, tmp_path):
    folder = shutil.copytree(shapes, tmp_path / "model")
    network = components.load(folder, "vae")
    file = folder / "selftest-vae.safetensors"
    stored = load_file(file)
    save_file(stored | {"output": -stored["output"]}, file)
    assert components.replay(network, folder, "vae") < 0
    save_file({"input": stored["input"]}, file)
    with pytest.raises(DamagedArtifact, match="has no call of this network"):
        components.replay(network, folder, "vae")


def test_an_infinite_weight_is_one_line(tmp_path):
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "model")
    for part, file, name in (
        ("text_encoder", "model.safetensors", "encoder.layers.1.mlp.fc1.weight"),
        ("vae", "diffusion_pytorch_model.safetensors", "decoder.mid_block.resnets.0.conv1.weight"),
    ):
        path = tmp_path / "model" / part / file
        tensors = load_file(path)
        tensors[name].view(-1)[0] = torch.inf
        save_file(tensors, path, {"format": "pt"})
        words = ("--components", part, "--output", tmp_path / "out")
        assert (
            f"{name} has numbers that are not finite" in quantize(tmp_path / "model", *words, code=2).stderr
        )
        assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_the_sizes_that_files_then_have(sd3, tiny, tmp_path):
    words = ("--components", "all", "--bits", "w4a8", "--group-size", 8, "--output", tmp_path / "out")
    said = quantize(tiny("sd3-medium-t5"), *words, "--dry-run").stdout
    assert not (tmp_path / "out").exists()
    lines = {line.split()[0]: line.split()[1:] for line in said.splitlines()[1:]}
    assert list(lines) == [*SD3, "together"]
    assert lines["text_encoder_3"][2:] == ["w4a8"]
    assert lines["vae"][2:] == ["w8a16"]
    for part in SD3:
        tensors = {}
        for file in (sd3 / part).glob("*.safetensors"):
            tensors |= load_file(file)
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert float(lines[part][0].rstrip(",")) == round(size / 1e6, 1)


def test_sd3_with_t5_at_its_published_size_is_listed_without_weights(tmp_path):
    make("sd3-medium-t5", tmp_path / "model", dtype=torch.float16, weights=False)
    words = ("--components", "all,text_encoder_3=w4a8", "--output", tmp_path / "out", "--dry-run")
    said = quantize(tmp_path / "model", *words, "--group-size", 128).stdout
    lines = {line.split()[0]: float(line.split()[1]) for line in said.splitlines()[1:]}
    square, wide = 4096 * 4096, 4096 * 10240
    packed = 24 * (4 * square + 3 * wide) - square - wide  # in 4 bits, a scale of 16 for each 128
    others = 32128 * 4096 + square + wide  # in fp16
    expected = packed * (0.5 + 2 / 128) + 2 * others
    assert lines["text_encoder_3"] == pytest.approx(expected / 1e6, abs=1)  # 2.7 GB, of 9.5 in fp16
    assert 2750 < lines["transformer"] < 2900  # of 4.1 GB; a third of its weights is the time path
    assert lines["together"] == pytest.approx(sum(lines[part] for part in SD3), abs=0.5)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("unett", "--components unett: is no network of shapes, which has unet, text_encoder, vae"),
        ("text_encoder_3", "--components text_encoder_3: is no network of shapes"),
        ("scheduler", "--components scheduler: is no network of shapes"),
        ("vae,vae=w4a16", "--components: vae is named twice"),
        ("vae=w9a8", "--components vae=w9a8: expected w<2..8>a<2..16>"),
        ("vae:w8a8", "--components vae:w8a8: expected names of components"),
        ("all=w4a8", "--components all: takes no bits of its own"),
    ],
)
def test_components_that_cannot_be_are_one_line(words, line, tmp_path):
    said = quantize("shapes", "--components", words, "--output", tmp_path / "out", code=2).stderr
    assert line in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_branch_is_for_the_denoiser(tmp_path):
    words = ("--components", "vae", "--branch-rank", 2, "--output", tmp_path / "out")
    assert "--branch-rank 2: is for the denoiser; add unet" in quantize("shapes", *words, code=2).stderr


def test_a_component_of_two_layers_has_none_to_quantize():
    class Model:
        source = "small"

        def meta_network(self, _):
            return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))

    config = sdquant_cli.SdquantConfig(bits="w8a8")
    with pytest.raises(UsageProblem, match="--components text_encoder: has no layers to quantize"):
        components.component_config(Model(), "text_encoder", config)


def test_an_adapter_is_fused_before_an_encoder_is_packed(tiny, tmp_path):
    g = torch.Generator().manual_seed(0)
    name = "lora_te_text_model_encoder_layers_0_self_attn_out_proj"
    down, up = torch.randn(2, 16, generator=g), torch.randn(16, 2, generator=g)
    adapter = tmp_path / "adapter.safetensors"
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, adapter)
    words = ("--lora", adapter, "--components", "text_encoder", "--output", tmp_path / "out")
    quantize(tiny("sd-v1-4"), *words)
    packed = components.load(tmp_path / "out", "text_encoder")
    layer = "encoder.layers.0.self_attn.out_proj"
    theirs = components.load(tiny("sd-v1-4"), "text_encoder").get_submodule(layer).weight
    ours = packed.get_submodule(layer)
    weight = ours.codes().float() * ours.weight_step[:, None]
    assert float(snr((theirs + up @ down)[None], weight[None])) > 35
    diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")


def test_an_autoencoder_with_its_first_names_is_packed_too(tmp_path):
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "model")
    file = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(file).items():
        for new, first in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{first}.")
        tensors[name] = tensor
    assert any(".query." in name for name in tensors)
    save_file(tensors, file, {"format": "pt"})
    for source, target in ((tmp_path / "model", "old"), ("shapes", "new")):
        quantize(source, "--components", "vae", "--output", tmp_path / target)
    weights = [tmp_path / target / "vae" / file.name for target in ("old", "new")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
