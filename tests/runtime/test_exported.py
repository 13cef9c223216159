"""What `sdquant export` writes: loads in diffusers, draws the same, may be cast, copied and saved again."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import (
    AutoModel,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

import sdquant_cli
from sdquant_cli.artifacts.text_embeds import TextEmbeds
from sdquant_cli.errors import UsageProblem
from sdquant_cli.metrics.ratios import snr
from sdquant_cli.models.load import EMBEDDED_FOLDER, find_model
from sdquant_cli.resources import measured as measure
from sdquant_cli.runtime import directory
from sdquant_cli.runtime.network import packed_layers
from sdquant_cli.types import Execution
from tests.conftest import PROMPTS
from tests.runtime.exports import PROMPT, STEPS, draw, load, psnr, quiet, read_config

FP32 = {"dtype": torch.float32}


def test_diffusers_draws_what_generate_draws(exported, tmp_path):
    """Without a dtype: to the pixel from the same embeddings, which the store keeps in fp16."""
    run, folder = exported
    run("generate", "--prompts", folder.parent / "prompts.txt", "--output", tmp_path)
    ours = [np.array(Image.open(tmp_path / f"0000{i}.png")) for i in range(2)]
    images = run.opened().resolve("images/latest-quantized")
    embeds = run.workspace().input(TextEmbeds, images, "text-embeds")
    texts = embeds.texts(find_model("shapes"), images.spec.setting).guided(embeds.index())
    pipeline = quiet(DiffusionPipeline.from_pretrained(folder))
    without, conditioned = texts.tokens.chunk(2)
    drawn = pipeline(
        prompt_embeds=conditioned,
        negative_prompt_embeds=without,
        generator=[sdquant_cli.generator(0, i) for i in range(2)],
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        output_type="np",
    ).images
    assert np.abs(drawn * 255 - np.stack(ours)).max() <= 0.501
    for other in (pipeline, StableDiffusionPipeline.from_pretrained(folder), sdquant_cli.load(folder)):
        assert psnr(draw(other), ours[0]) > 30
    run("generate", "--prompts", folder.parent / "prompts.txt", "--engine", "simulated")
    simulated = run.opened().resolve("images/latest-quantized")
    assert simulated.spec.engine is Execution.SIMULATED
    assert psnr(simulated.read("image")[0], ours[0]) > 30


def test_the_embedded_model_draws_without_a_dtype(tmp_path):
    pipeline = quiet(DiffusionPipeline.from_pretrained(EMBEDDED_FOLDER))
    assert pipeline.text_encoder.dtype == pipeline.unet.dtype == torch.float32
    assert pipeline(PROMPT, num_inference_steps=1, output_type="latent").images.isfinite().all()
    committed = EMBEDDED_FOLDER / "text_encoder" / "config.json"
    written = tmp_path / "config.json"
    written.write_text(committed.read_text().replace("float32", "float16"))
    directory.set_dtype(written, "float32")  # as tools/train_shapes/assemble.py does
    assert written.read_text() == committed.read_text()


def test_casts_are_those_of_from_pretrained(exported):
    half = load(exported[1], dtype=torch.bfloat16)
    x, text = torch.randn(2, 4, 16, 16).bfloat16(), torch.randn(2, 32, 96).bfloat16()
    timestep = torch.tensor(half.hf_quantizer.quantization_config.timesteps[-1])
    for cast in (load(exported[1]).to(torch.bfloat16), load(exported[1]).bfloat16()):
        assert cast.conv_in.weight_step.dtype == torch.float32
        assert cast.conv_in.weight.dtype in (torch.int8, torch.uint8)
        with torch.no_grad():
            assert torch.equal(cast(x, timestep, text).sample, half(x, timestep, text).sample)
    assert load(exported[1]).half().dtype == torch.float16


def test_a_second_pipeline_a_copy_and_one_saved_again_draw_the_same(exported, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(exported[1])
    first = draw(pipeline)
    assert np.array_equal(draw(pipeline.to("cpu", torch.float32)), first)
    assert np.array_equal(draw(copy.deepcopy(pipeline)), first)
    pipeline.save_pretrained(tmp_path)
    assert np.array_equal(draw(DiffusionPipeline.from_pretrained(tmp_path)), first)
    call = {
        "prompt": PROMPT,
        "image": Image.fromarray(first),
        "strength": 0.5,
        "num_inference_steps": STEPS,
        "output_type": "np",
    }
    loaded = quiet(StableDiffusionImg2ImgPipeline.from_pretrained(exported[1]))
    expected = loaded(generator=torch.Generator().manual_seed(0), **call).images
    second = quiet(StableDiffusionImg2ImgPipeline.from_pipe(pipeline))
    assert np.array_equal(second(generator=torch.Generator().manual_seed(0), **call).images, expected)
    pipeline.enable_model_cpu_offload(device="cpu")
    assert np.array_equal(draw(pipeline), first)


def test_the_unet_alone_and_in_half_precision(exported):
    folder = exported[1]
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


@pytest.fixture(scope="module")
def dense(exported, tmp_path_factory):
    """The same state exported as fp16 weights."""
    folder = tmp_path_factory.mktemp("dense") / "model"
    exported[0]("export", "--output", folder, "--format", "dequant")
    return folder


def _prints(code: str) -> list[str]:
    """Return what a new process prints, which imports no package that diffusers can do without."""
    code = f"import sys; sys.modules['bitsandbytes'] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_fp16_weights_load_without_us_and_packed_ones_once_we_are_imported(exported, dense):
    code = f"""
from diffusers import UNet2DConditionModel
unet = UNet2DConditionModel.from_pretrained({str(dense / "unet")!r})
assert "sdquant_cli" not in sys.modules
print(len(unet.conv_in.weight.unique()))
import sdquant_cli
print(type(UNet2DConditionModel.from_pretrained({str(exported[1] / "unet")!r}).conv_in).__name__)
"""
    values, layer = _prints(code)
    assert int(values) > 10
    assert layer == "PackedConv2d"


def test_we_may_be_imported_before_diffusers(exported):
    code = f"""
import sdquant_cli
assert "diffusers" not in sys.modules and "torch" not in sys.modules
from diffusers import UNet2DConditionModel
print(type(UNet2DConditionModel.from_pretrained({str(exported[1] / "unet")!r}).conv_in).__name__)
"""
    assert _prints(code) == ["PackedConv2d"]


def test_saving_again_writes_the_same(exported, tmp_path):
    load(exported[1]).save_pretrained(tmp_path / "unet")
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "unet" / name).read_bytes() == (exported[1] / "unet" / name).read_bytes()
    again, first = read_config(tmp_path), read_config(exported[1])
    for config in (again, first):
        config.pop("_name_or_path", None)  # diffusers notes where it was loaded from
    assert first["quantization_config"].pop("sha256")  # of the files that were exported
    assert again == first


def test_exporting_again_writes_the_same(exported, tmp_path):
    exported[0]("export", "--output", tmp_path / "again")
    again, first = (
        json.loads((f / "provenance.json").read_text()) for f in (tmp_path / "again", exported[1])
    )
    assert again == first


def test_it_is_small(exported):
    assert (exported[1] / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size <= 4.2e6


def test_verify_replays_the_stored_call(exported):
    said = exported[0]("verify", exported[1]).stdout
    assert "dequantized" in said


def test_fp16_weights_draw_what_packed_ones_draw(exported, dense):
    exported[0]("verify", dense)
    drawn = draw(DiffusionPipeline.from_pretrained(dense))
    assert psnr(drawn, draw(sdquant_cli.load(exported[1]))) > 20


def test_an_adapter_that_is_not_fused(exported, tmp_path):
    from peft import LoraConfig

    unet = UNet2DConditionModel.from_pretrained(exported[1] / "unet", **FP32)
    x, text = torch.randn(2, 4, 16, 16), torch.randn(2, 32, 96)
    timestep = torch.tensor(unet.hf_quantizer.quantization_config.timesteps[0])
    with torch.no_grad():
        before = unet(x, timestep, text).sample
        unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "conv1"]))
        # B is zero at first; a block with an adapter is computed by diffusers, which adds in another order
        without_effect = unet(x, timestep, text).sample
        assert float(snr(before[None], without_effect[None])) > 30
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
        with_adapter = unet(x, timestep, text).sample
        unet.disable_adapters()
        assert torch.equal(unet(x, timestep, text).sample, without_effect)
    assert float(snr(before[None], with_adapter[None])) < 25


@pytest.mark.parametrize("name", ["sd-v2-1", "sdxl", "sd3-medium", "sd3.5-medium", "pixart-sigma", "lcm"])
def test_the_other_families(sdquant, tiny, tmp_path, name):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n")
    sdquant("sample", "--prompts", prompts, "--model", tiny(name), "--steps", 3)
    sdquant("calibrate", "--method", "rtn", "--bits", "w8a8")
    sdquant("export", "--output", tmp_path / "model")
    sdquant("verify", tmp_path / "model")
    sdquant("generate", "--prompts", prompts, "--engine", "auto")
    images = sdquant.opened().resolve("images/latest-quantized")
    setting = images.spec.setting.as_requested
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name.startswith("sd3") else {}
    pipeline = quiet(DiffusionPipeline.from_pretrained(tmp_path / "model", **absent))
    size = {"height": setting.height, "width": setting.width}
    if name == "pixart-sigma":
        size["use_resolution_binning"] = False
    drawn = pipeline(PROMPT, num_inference_steps=3, guidance_scale=setting.guidance_scale, **size).images[0]
    assert drawn.size == (setting.width, setting.height)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_runs_some_of_the_calibrated_timesteps(exported, strength):
    start = Image.fromarray(draw(sdquant_cli.load(exported[1]), seed=5))
    drawn = []
    for folder in (exported[1], EMBEDDED_FOLDER):
        pipeline = quiet(StableDiffusionImg2ImgPipeline.from_pretrained(folder))
        noise = torch.Generator().manual_seed(0)
        given = {"image": start, "strength": strength, "num_inference_steps": STEPS, "generator": noise}
        drawn.append(np.array(pipeline(PROMPT, guidance_scale=3.0, **given).images[0]))
    assert psnr(*drawn) > 15


def test_other_timesteps_are_refused(exported):
    with pytest.raises(UsageProblem, match="is not among the 4 calibrated ones"):
        quiet(sdquant_cli.load(exported[1]))(PROMPT, num_inference_steps=7)


def test_an_engine_that_is_none(exported, monkeypatch):
    for name in ("magic", "simulated"):
        monkeypatch.setenv("SDQUANT_ENGINE", name)
        with pytest.raises(UsageProblem, match="expected auto, integer or dequantized"):
            load(exported[1])
    monkeypatch.setenv("SDQUANT_ENGINE", "dequantized")
    assert packed_layers(load(exported[1]))


def test_bad_flags(exported, tmp_path):
    run, folder = exported
    assert "exists; name a new folder" in run("export", "--output", folder, code=2).stderr
    assert (
        "expected quant-state"
        in run("export", "--output", tmp_path / "x", "--state", "latents", code=2).stderr
    )
    assert not (tmp_path / "x").exists()
    assert (
        "--engine integer: not supported with --model fp"
        in run("generate", "--model", "fp", "--engine", "integer", code=2).stderr
    )
    words = ("generate", "--engine", "dequantized", "--scheduler", "ddim", "--step-match", "nearest")
    assert "leave --step-match out" in run(*words, code=2).stderr


def test_a_schedule_that_the_pipeline_changes_is_refused(exported, folder, tmp_path, monkeypatch):
    model, path = find_model("shapes"), folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "steps_offset": 0}))
    held = directory.pipeline_scheduler(model, folder)
    assert held.config.steps_offset == 1  # StableDiffusionPipeline runs no other
    other = type(held).from_config(held.config, beta_end=0.02)
    monkeypatch.setattr(directory, "pipeline_scheduler", lambda *_: other)
    said = exported[0]("export", "--output", tmp_path / "x", code=3).stderr
    assert "runs its scheduler with beta_end 0.02 instead of 0.012" in said
    assert not (tmp_path / "x").exists()


def test_bench_measures_every_way(sdquant, tiny, monkeypatch):
    from sdquant_cli.stages import bench

    def here(load):
        load()()
        return measure.Footprint(1.0, 1.0, 1)

    monkeypatch.setattr(bench, "footprint", here)  # five processes would import diffusers five times
    words = ("--limit", 1, "--steps", 2, "--model", tiny("sd-v1-4/two-blocks"))
    sdquant("sample", "--prompts", PROMPTS / "shapes-train.txt", *words)
    sdquant("calibrate", "--method", "rtn", "--bits", "w4a8")
    found = json.loads(sdquant("bench", "--repeats", 1, "--height", 64, "--width", 64, "--json").stdout)
    names = [(way["execution"], way["dtype"]) for way in found["ways"]]
    assert names[:3] == [("fp", "fp32"), ("fp", "bf16"), ("simulated", "fp32")]
    assert len(names) == 5
    for way in found["ways"]:
        assert len(way["call_seconds"]) == 1
        assert min(way["call_seconds"]) > 0
    assert found["ways"][3]["disk"] < found["ways"][1]["disk"]
    assert found["ways"][0]["psnr_to_simulated"] > 15
    assert sdquant("bench", "--repeats", 1, "--pictures", 0).stdout.count("\n") >= 7
    assert "--height 9: expected a multiple of" in sdquant("bench", "--height", 9, code=2).stderr
