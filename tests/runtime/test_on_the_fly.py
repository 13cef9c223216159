"""Weights packed while diffusers loads them, and `sdquant quantize`."""

import json

import diffusers
import pytest
import torch
from peft import LoraConfig

import sdquant_cli
from sdquant_cli.errors import DamagedArtifact, UsageProblem
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


@pytest.fixture(scope="module")
def calibrated(folder, tmp_path_factory):
    """An exported folder of scales per token, smoothed channels and trained branches."""
    root = tmp_path_factory.mktemp("calibrated")
    run = Sdquant(root / "store")
    (root / "prompts.txt").write_text("a cat\n")
    run("sample", "--prompts", root / "prompts.txt", "--model", folder, "--steps", 3, "--per-prompt", 2)
    words = ("--bits", "w4a8", "--group-size", 4, "--branch-rank", 1, "--smoothing")
    run("calibrate", *words, "--iterations", 1, "--batch-size", 1)
    run("export", "--output", root / "out")
    return root / "out"


@pytest.fixture(params=["quantized", "calibrated"])
def packed_folder(request):
    return request.getfixturevalue(request.param)


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
def test_the_folder_draws_with_any_scheduler_size_and_number_of_steps(packed_folder, folder, scheduler):
    latents = []
    for source in (packed_folder, folder):
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


def test_verify_replays_the_stored_call(packed_folder, sdquant):
    assert "signal to noise" in sdquant("verify", packed_folder).stdout


def test_an_adapter_that_is_not_fused(packed_folder):
    network = unet(packed_folder)
    before = predicted(network)
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v", "conv1"]))
    assert torch.equal(predicted(network), before)  # B is zero at first
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    assert float((predicted(network) - before).abs().max()) > 1e-3
    network.disable_adapters()
    assert torch.equal(predicted(network), before)


def test_smoothed_channels_are_stored_and_checked(calibrated, tmp_path):
    stored = json.loads((calibrated / "unet" / "config.json").read_text())["quantization_config"]
    assert stored["smoothing"] is True
    network = unet(calibrated)
    network.conv_in.smoothing[0] = -1
    network.save_pretrained(tmp_path / "unet")
    with pytest.raises(
        DamagedArtifact, match=r"conv_in\.smoothing: has multipliers that are not finite and pos"
    ):
        unet(tmp_path)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"bits": "w9a8"}, r"SdquantConfig\(bits='w9a8'\): expected w<2..8>a<2..16>"),
        ({"bits": "w8a8", "activations": "per-step"}, "activations='per-step'.*: needs a calibration"),
        ({"bits": "w8a8", "smoothing": True}, "smoothing=True.*: needs a calibration"),
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
