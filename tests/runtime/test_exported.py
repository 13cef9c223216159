"""What `sdquant export` writes: loads in diffusers, draws the same, proves itself, refuses damage."""

import copy
import json
import shutil
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoModel, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

import sdquant_cli
from sdquant_cli.errors import DamagedArtifact, NewerFormat, UsageProblem
from sdquant_cli.runtime import measure
from sdquant_cli.runtime.network import packed_layers
from sdquant_cli.types import Execution
from tests.conftest import Sdquant

STEPS = 4
FP32 = {"dtype": torch.float32}
PROMPT = "a big red circle"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a W4A8 state of the embedded model, mixed, one step relaxed, and its exported folder."""
    root = tmp_path_factory.mktemp("exported")
    run = Sdquant(root / "store")
    (root / "prompts.txt").write_text(f"{PROMPT}\na small cyan star\n")
    run("sample", "--prompts", root / "prompts.txt", "--steps", STEPS, "--per-prompt", 2)
    run("sensitivity")
    run("calibrate", "--method", "rtn", "--bits", "w4a8", "--mixed", "--relax", "last")
    run("export", "--output", root / "model")
    return run, root / "model"


@pytest.fixture
def folder(made, tmp_path):
    """A copy to damage."""
    return shutil.copytree(made[1], tmp_path / "model")


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, seed=0):
    """The picture that `generate` draws of the first prompt."""
    told = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "height": 64, "width": 64}
    return np.array(quiet(pipeline)(PROMPT, generator=sdquant_cli.generator(seed), **told).images[0])


def psnr(a, b):
    error = np.square(a.astype(float) - b.astype(float)).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def test_diffusers_draws_what_generate_draws(made, tmp_path):
    run, folder = made
    run("generate", "--prompts", made[1].parent / "prompts.txt", "--engine", "auto", "--output", tmp_path)
    ours = np.array(Image.open(tmp_path / "00000.png"))
    for pipeline in (DiffusionPipeline, StableDiffusionPipeline):
        assert psnr(draw(pipeline.from_pretrained(folder, **FP32)), ours) > 30
    assert psnr(draw(sdquant_cli.load(folder)), ours) > 30
    run("generate", "--prompts", made[1].parent / "prompts.txt")
    simulated = run.opened().resolve("images/latest-quantized")
    assert simulated.spec.engine is Execution.SIMULATED
    assert psnr(simulated.read("image")[0], ours) > 30


def test_the_unet_alone_and_in_half_precision(made):
    folder = made[1]
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", **FP32)
    assert isinstance(AutoModel.from_pretrained(str(folder), subfolder="unet"), UNet2DConditionModel)
    assert len(packed_layers(unet)) == 258
    assert unet.dtype == torch.float32
    x, text = torch.randn(2, 4, 16, 16), torch.randn(2, 32, 96)
    timestep = torch.tensor(unet.hf_quantizer.quantization_config.timesteps[1])
    with torch.no_grad():
        whole = unet(x, timestep, text).sample
        half = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.bfloat16)
        assert half.conv_in.weight_step.dtype == torch.float32
        answer = half(x.bfloat16(), timestep, text.bfloat16()).sample
        again = copy.deepcopy(unet)(x, timestep, text).sample
    assert torch.equal(again, whole)
    assert answer.dtype == torch.bfloat16
    assert float((answer - whole).square().mean() / whole.square().mean()) < 0.05


def test_a_part_of_the_steps_is_what_img2img_draws_with(made):
    parts = DiffusionPipeline.from_pretrained(made[1], **FP32).components
    pipeline = quiet(diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False))
    image = Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8))
    drawn = pipeline(PROMPT, image=image, strength=0.5, num_inference_steps=STEPS, guidance_scale=3.0)
    assert drawn.images[0].size == (64, 64)


@pytest.mark.parametrize("first", ["diffusers", "sdquant_cli"])
def test_either_may_be_imported_first(made, first):
    second = {"diffusers": "sdquant_cli", "sdquant_cli": "diffusers"}[first]
    code = f"""
import sys
import {first}
assert {first!r} == "diffusers" or "diffusers" not in sys.modules and "torch" not in sys.modules
import {second}
from diffusers import UNet2DConditionModel
print(type(UNet2DConditionModel.from_pretrained({str(made[1] / "unet")!r}).conv_in).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["PackedConv2d"], done.stderr


def test_saving_again_writes_the_same(made, tmp_path):
    unet = UNet2DConditionModel.from_pretrained(made[1] / "unet", **FP32)
    unet.save_pretrained(tmp_path)
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / name).read_bytes() == (made[1] / "unet" / name).read_bytes()
    configs = [json.loads((path / "config.json").read_text()) for path in (tmp_path, made[1] / "unet")]
    for config in configs:
        config.pop("_name_or_path", None)  # diffusers notes where it was loaded from
    assert configs[0] == configs[1]


def test_exporting_again_writes_the_same(made, tmp_path):
    made[0]("export", "--output", tmp_path / "again")
    again, first = (json.loads((f / "provenance.json").read_text()) for f in (tmp_path / "again", made[1]))
    assert again == first


def test_it_is_small(made):
    assert (made[1] / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size <= 4.2e6


def test_verify_replays_the_stored_call(made):
    said = made[0]("verify", made[1]).stdout
    assert "dequantized" in said


def test_fp16_weights_load_without_us(made, tmp_path):
    made[0]("export", "--output", tmp_path / "dense", "--format", "dequant")
    made[0]("verify", tmp_path / "dense")
    code = f"""
import sys
from diffusers import UNet2DConditionModel
unet = UNet2DConditionModel.from_pretrained({str(tmp_path / "dense" / "unet")!r})
assert "sdquant_cli" not in sys.modules
print(len(unet.conv_in.weight.unique()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10
    drawn = draw(DiffusionPipeline.from_pretrained(tmp_path / "dense", **FP32))
    assert psnr(drawn, draw(sdquant_cli.load(made[1]))) > 20


def test_an_adapter_that_is_not_fused(made, tmp_path):
    from peft import LoraConfig

    unet = UNet2DConditionModel.from_pretrained(made[1] / "unet", **FP32)
    x, text = torch.randn(2, 4, 16, 16), torch.randn(2, 32, 96)
    timestep = torch.tensor(unet.hf_quantizer.quantization_config.timesteps[0])
    with torch.no_grad():
        before = unet(x, timestep, text).sample
        unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "conv1"]))
        assert torch.equal(unet(x, timestep, text).sample, before)  # B is zero at first
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
        with_adapter = unet(x, timestep, text).sample
        unet.disable_adapters()
        assert torch.equal(unet(x, timestep, text).sample, before)
    assert float((with_adapter - before).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["sd-v2-1", "sdxl", "sd3-medium"])
def test_the_other_families(sdquant, tiny, tmp_path, name):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n")
    sdquant("sample", "--prompts", prompts, "--model", tiny(name), "--steps", 3)
    sdquant("calibrate", "--method", "rtn", "--bits", "w8a8")
    sdquant("export", "--output", tmp_path / "model")
    sdquant("verify", tmp_path / "model")
    sdquant("generate", "--prompts", prompts, "--engine", "auto")
    images = sdquant.opened().resolve("images/latest-quantized")
    setting = images.spec.setting
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3-medium" else {}
    pipeline = quiet(sdquant_cli.load(tmp_path / "model", **absent))
    size = {"height": setting.height, "width": setting.width}
    drawn = pipeline(PROMPT, num_inference_steps=3, guidance_scale=setting.guidance_scale, **size).images[0]
    assert drawn.size == (setting.width, setting.height)


# ---------------------------------------------------------------------------------- bad input


def weights(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def change_config(folder, **fields):
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= fields
    path.write_text(json.dumps(config))


def load(folder):
    return UNet2DConditionModel.from_pretrained(folder / "unet", **FP32)


def test_a_truncated_file_is_named(made, folder):
    file = weights(folder)
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file}: is not as it was written" in made[0]("verify", folder, code=3).stderr
    with pytest.raises(OSError, match="diffusion_pytorch_model"):
        load(folder)


def test_an_edited_and_a_missing_file_are_named(made, folder):
    (folder / "recipe.json").write_text("{}")
    assert "recipe.json: is not as it was written" in made[0]("verify", folder, code=3).stderr
    (folder / "recipe.json").unlink()
    assert "recipe.json: is missing" in made[0]("verify", folder, code=3).stderr
    (folder / "provenance.json").unlink()
    assert "no provenance.json" in made[0]("verify", folder, code=2).stderr


def test_wrong_numbers_are_found_by_the_stored_call(made, folder):
    tensors = load_file(folder / "selftest.safetensors")
    tensors["output"] = -tensors["output"]
    save_file(tensors, folder / "selftest.safetensors")
    path = folder / "provenance.json"
    provenance = json.loads(path.read_text())
    provenance["files"].pop("selftest.safetensors")
    path.write_text(json.dumps(provenance))
    assert "its stored call comes out" in made[0]("verify", folder, code=3).stderr


def test_a_missing_tensor(folder):
    tensors = load_file(weights(folder))
    del tensors["mid_block.resnets.0.conv1.weight_step"]
    save_file(tensors, weights(folder), {"format": "pt"})
    with pytest.raises(
        DamagedArtifact, match=r"1 tensors are missing.*mid_block.resnets.0.conv1.weight_step"
    ):
        load(folder)


def test_a_tensor_of_another_type(folder):
    tensors = load_file(weights(folder))
    tensors["conv_in.weight_step"] = tensors["conv_in.weight_step"].half()
    save_file(tensors, weights(folder), {"format": "pt"})
    with pytest.raises(DamagedArtifact, match=r"conv_in.weight_step: is torch.float16"):
        load(folder)


def test_a_newer_format(folder):
    change_config(folder, format_version=2, made_with="9.0")
    with pytest.raises(NewerFormat, match=r"written by sdquant 9.0 in format 2.*pip install -U sdquant"):
        load(folder)


def test_a_configuration_that_makes_no_sense(folder):
    change_config(folder, layers={"w8a16": ["conv_middle"]})
    with pytest.raises(DamagedArtifact, match="names conv_middle, no such layer"):
        load(folder)
    change_config(folder, layers={}, bits="w40a8")
    with pytest.raises(DamagedArtifact, match="w40a8"):
        load(folder)
    change_config(folder, bits="w4a8", relax="sideways")
    with pytest.raises(DamagedArtifact, match="sideways"):
        load(folder)


def test_casting_says_what_to_do_instead(made):
    pipeline = quiet(sdquant_cli.load(made[1]))
    for cast in (lambda: pipeline.to(torch.float16), pipeline.unet.half):
        with pytest.raises(ValueError, match="torch_dtype"):
            cast()


def test_other_timesteps_are_refused(made):
    with pytest.raises(UsageProblem, match="is not among the 4 calibrated ones"):
        quiet(sdquant_cli.load(made[1]))(PROMPT, num_inference_steps=7)


def test_an_engine_that_is_none(made, monkeypatch):
    for name in ("magic", "simulated"):
        monkeypatch.setenv("SDQUANT_ENGINE", name)
        with pytest.raises(UsageProblem, match="expected auto, integer or dequantized"):
            load(made[1])
    monkeypatch.setenv("SDQUANT_ENGINE", "dequantized")
    assert packed_layers(load(made[1]))


def test_bad_flags(made, tmp_path):
    run, folder = made
    assert "exists; name a new folder" in run("export", "--output", folder, code=2).stderr
    assert (
        "expected a quantizer state"
        in run("export", "--output", tmp_path / "x", "--state", "latents", code=2).stderr
    )
    assert not (tmp_path / "x").exists()
    assert (
        "--engine auto: has no meaning with --model fp"
        in run("generate", "--model", "fp", "--engine", "auto", code=2).stderr
    )
    words = ("generate", "--engine", "auto", "--scheduler", "ddim", "--step-match", "nearest")
    assert "leave --step-match out" in run(*words, code=2).stderr


def test_bench_measures_every_way(made, monkeypatch):
    from sdquant_cli.stages import bench

    def here(load):
        load()()
        return measure.Footprint(1.0, 1.0, 1)

    monkeypatch.setattr(bench, "footprint", here)  # five processes would import diffusers five times
    run = made[0]
    assert "--height 9: expected a multiple of 32" in run("bench", "--height", 9, code=2).stderr
    found = json.loads(run("bench", "--repeats", 2, "--json").stdout)
    names = [(way["execution"], way["dtype"]) for way in found["ways"]]
    assert names[:3] == [("fp", "fp32"), ("fp", "bf16"), ("simulated", "fp32")]
    assert len(names) == 5
    for way in found["ways"]:
        assert len(way["call_seconds"]) == 2
        assert min(way["call_seconds"]) > 0
    assert found["ways"][3]["disk"] < found["ways"][1]["disk"] / 2
    assert found["ways"][0]["psnr_to_simulated"] > 15
    assert run("bench", "--repeats", 1, "--pictures", 0).stdout.count("\n") >= 7


def hundred_megabytes():
    kept = np.ones(100_000_000, dtype=np.uint8)
    return kept.sum


def test_memory_is_that_of_loading_and_calling():
    found = measure.footprint(hundred_megabytes)
    assert 95e6 < found.peak_bytes < 150e6
    assert found.load_seconds > 0
