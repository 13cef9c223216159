"""Weights packed while diffusers loads them, and `sdquant quantize`."""

import json

import diffusers
import pytest
import torch

import sdquant_cli
from sdquant_cli.errors import UsageProblem
from sdquant_cli.metrics.ratios import snr
from sdquant_cli.runtime.network import packed_layers
from tests.conftest import Sdquant

SCHEDULERS = ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")


def unet(folder, **options):
    return diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **options)


def predicted(network, timestep=500.0):
    g = torch.Generator().manual_seed(0)
    config = network.config
    x = torch.randn(2, config.in_channels, 8, 8, generator=g)
    text = torch.randn(2, 5, config.cross_attention_dim, generator=g)
    with torch.no_grad():
        return network(x, torch.tensor(timestep), text).sample


@pytest.fixture(scope="module")
def folder(tiny):
    return tiny("sd-v1-4/two-blocks")


@pytest.fixture(scope="module")
def quantized(folder, tmp_path_factory):
    """The folder that `sdquant quantize` writes, made without a store."""
    root = tmp_path_factory.mktemp("quantize")
    words = ("quantize", folder, "--bits", "w4a8", "--group-size", 4, "--branch-rank", 1)
    Sdquant(root / "unused").without_store(*words, "--output", root / "out")
    assert not (root / "unused").exists()
    return root / "out"


def test_a_checkpoint_is_packed_while_it_is_loaded(folder):
    loaded = unet(folder, quantization_config=sdquant_cli.SdquantConfig(bits="w8a8"))
    assert all(layer.weight.dtype is torch.int8 for layer in packed_layers(loaded).values())
    assert len(packed_layers(loaded)) == 71
    assert type(loaded.conv_in) is type(loaded.conv_out) is torch.nn.Conv2d
    assert float(snr(predicted(unet(folder)), predicted(loaded)).min()) > 30


def test_every_timestep_can_be_called(folder):
    loaded = unet(folder, quantization_config=sdquant_cli.SdquantConfig(bits="w8a8"))
    for timestep in (0.0, 12.5, 999.0):
        assert bool(predicted(loaded, timestep).isfinite().all())


def test_the_folder_of_the_command_is_what_is_packed_while_loading(folder, quantized):
    config = sdquant_cli.SdquantConfig(bits="w4a8", group_size=4, branch_rank=1)
    loaded = unet(folder, quantization_config=config)
    assert torch.equal(predicted(unet(quantized)), predicted(loaded))
    stored = json.loads((quantized / "unet" / "config.json").read_text())["quantization_config"]
    assert stored["floating"] == ["conv_in", "conv_out"]
    assert {name.rpartition(".")[2] for name in stored["layers"].pop("w4a16")} == {"conv_shortcut"}
    assert stored["layers"] == {}
    assert (stored["timesteps"], stored["activations"]) == ([], "token")


def test_it_comes_back_from_save_pretrained(folder, tmp_path):
    config = sdquant_cli.SdquantConfig(bits="w4a8", branch_rank=1)
    loaded = unet(folder, quantization_config=config)
    loaded.save_pretrained(tmp_path / "unet")
    assert torch.equal(predicted(unet(tmp_path)), predicted(loaded))


def test_a_config_serves_several_models_and_is_left_as_it_was(folder, tiny):
    config = sdquant_cli.SdquantConfig(bits="w8a8")
    before = config.to_dict()
    for source in (folder, tiny("sd-v1-4")):
        loaded = unet(source, quantization_config=config)
        stored = loaded.config["quantization_config"]
        assert stored.floating == ["conv_in", "conv_out"]
        assert set(stored.layers["w8a16"]) <= packed_layers(loaded).keys()
    assert config.to_dict() == before


def test_a_pipeline_takes_the_config_for_its_unet(folder):
    mapping = {"unet": sdquant_cli.SdquantConfig(bits="w8a8")}
    config = diffusers.PipelineQuantizationConfig(quant_mapping=mapping)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, quantization_config=config)
    assert len(packed_layers(pipeline.unet)) == 71


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_folder_draws_with_any_scheduler_size_and_number_of_steps(quantized, folder, scheduler):
    latents = []
    for source in (quantized, folder):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(source)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
        drawn = pipeline(
            "a cat",
            num_inference_steps=4,
            height=48,
            width=32,
            output_type="latent",
            latents=None,
            generator=torch.Generator().manual_seed(0),
        )
        latents.append(drawn.images)
    assert latents[0].shape == latents[1].shape
    assert float(snr(latents[1], latents[0]).min()) > 10


def test_verify_replays_the_stored_call(quantized, sdquant):
    assert "signal to noise" in sdquant("verify", quantized).stdout


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"bits": "w9a8"}, r"SdquantConfig\(bits='w9a8'\): expected w<2..8>a<2..16>"),
        ({"bits": "w8a8", "activations": "per-step"}, "activations='per-step'.*: needs a calibration"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(folder, fields, line):
    with pytest.raises(UsageProblem, match=line):
        unet(folder, quantization_config=sdquant_cli.SdquantConfig(**fields))


def test_bad_words_leave_nothing(folder, tmp_path, sdquant):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    told = sdquant.without_store("quantize", folder, "--output", tmp_path / "full", code=2).stderr
    assert "exists; name a new folder" in told
    told = sdquant.without_store("quantize", tmp_path / "none", "--output", tmp_path / "out", code=2).stderr
    assert "none" in told
    assert not (tmp_path / "out").exists()


def test_layers_without_whole_groups_are_named(folder, tmp_path, sdquant):
    words = ("quantize", folder, "--group-size", 5, "--output", tmp_path / "out")
    said = sdquant.without_store(*words).stderr
    assert "--group-size 5: 71 layers whose width is no multiple" in said
