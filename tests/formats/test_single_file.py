"""Checkpoints in one file: diffusers loads the same tensors back, ComfyUI's kernels compute the same."""

import json

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from sdquant_cli.artifacts.quant_state import QuantState
from sdquant_cli.errors import UsageProblem
from sdquant_cli.formats import single_file
from sdquant_cli.models.load import EMBEDDED_FOLDER, find_model
from tests.runtime.exports import draw

HALF = {"dtype": torch.float16}


def loaded(path, base, cls=StableDiffusionPipeline):
    return cls.from_single_file(path, config=str(base), local_files_only=True, **HALF)


@pytest.fixture(scope="module")
def file(per_token, tmp_path_factory):
    run, state = per_token
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    said = run("export", "--state", state, "--format", "single-file", "--output", path)
    assert "activations are not rounded" in said.stderr
    return path


@pytest.fixture(scope="module")
def folder(per_token, tmp_path_factory):
    run, state = per_token
    path = tmp_path_factory.mktemp("dequant") / "model"
    run("export", "--state", state, "--format", "dequant", "--output", path)
    return path


def test_it_loads_as_the_folder_of_fp16_weights(file, folder):
    pipeline, expected = loaded(file, EMBEDDED_FOLDER), DiffusionPipeline.from_pretrained(folder, **HALF)
    for part in ("unet", "vae", "text_encoder"):
        tensors = getattr(expected, part).state_dict()
        back = getattr(pipeline, part).state_dict()
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    pipeline.to(torch.float32), expected.to(torch.float32)
    pipeline.scheduler = expected.scheduler
    assert np.array_equal(draw(pipeline), draw(expected))


def test_it_is_the_same_bytes_again_and_says_how_it_was_made(file, per_token, tmp_path):
    run, state = per_token
    run("export", "--state", state, "--format", "single-file", "--output", tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == file.read_bytes()
    with safe_open(file, "pt") as opened:
        recipe = json.loads(opened.metadata()[single_file.METADATA])
    assert recipe["format"] == "single-file"
    assert recipe["calibration"]["bits"] == "w8a8"
    assert (
        "exists; name a new file" in run("export", "--format", "single-file", "--output", file, code=2).stderr
    )
    said = run("export", "--format", "single-file", "--output", tmp_path / "model", code=2).stderr
    assert "expected a name that ends in .safetensors" in said


def test_what_the_file_cannot_hold_is_refused_until_it_is_asked_for(branched, tmp_path):
    run, state = branched
    words = ("export", "--state", state, "--format", "single-file", "--output", tmp_path / "x.safetensors")
    said = run(*words, code=2).stderr
    assert "branches of" in said
    assert "add --lossy" in said
    assert "leave their grid" in run(*words, "--lossy").stderr
    run("export", "--state", state, "--format", "dequant", "--output", tmp_path / "folder")
    ours = loaded(tmp_path / "x.safetensors", EMBEDDED_FOLDER).unet.state_dict()
    theirs = DiffusionPipeline.from_pretrained(tmp_path / "folder", **HALF).unet.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    ("name", "cls"), [("sd-v2-1", StableDiffusionPipeline), ("sdxl/other-width", StableDiffusionXLPipeline)]
)
def test_the_other_families(tiny, tmp_path, name, cls):
    """A state without layers: all tensors of the model are those of the file."""
    model = find_model(str(tiny(name)))
    single_file.write(tmp_path / "x.safetensors", model, {}, {}, int8=False)
    pipeline = loaded(tmp_path / "x.safetensors", model.folder, cls)
    expected = DiffusionPipeline.from_pretrained(model.folder, **HALF)
    for part in (*model.text_parts, "vae", "unet"):
        back = getattr(pipeline, part).state_dict()
        for key, tensor in getattr(expected, part).state_dict().items():
            assert torch.equal(back[key], tensor), (part, key)
    marks = {"v_pred", "ztsnr"}.intersection(load_file(tmp_path / "x.safetensors"))
    assert marks == ({"v_pred"} if name == "sd-v2-1" else set())


def test_a_number_beyond_fp16(tiny, tmp_path):
    model = find_model(str(tiny("sd-v1-4")))
    name = "conv_in.weight"
    state = {name.removesuffix(".weight"): _Huge()}
    with pytest.raises(UsageProblem, match=r"unet: conv_in\.weight overflows fp16"):
        single_file.write(tmp_path / "x.safetensors", model, state, {}, int8=False)
    assert not list(tmp_path.iterdir())


class _Huge:
    def whole_weight(self):
        return torch.full((8, 4, 3, 3), 1e6)


# --------------------------------------------------------------------------------- ComfyUI


@pytest.fixture(scope="module")
def comfy(per_token, tmp_path_factory):
    run, state = per_token
    path = tmp_path_factory.mktemp("comfy") / "model.safetensors"
    said = run("export", "--state", state, "--format", "comfyui-int8", "--output", path).stderr
    assert "160 of 160 linear layers are int8" in said
    return path


def test_comfyui_computes_the_codes_of_the_state(comfy, per_token):
    """Through comfy-kitchen's own layout: its int8 product is ours but for symmetric scales of rows."""
    from comfy_kitchen.tensor.base import QuantizedTensor
    from comfy_kitchen.tensor.int8 import TensorWiseINT8Layout

    run, state = per_token
    layers = QuantState.of(run.opened().resolve(state)).state(find_model("shapes"))
    tensors = load_file(comfy)
    place = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    ours = layers["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"]
    assert json.loads(bytes(tensors[f"{place}.comfy_quant"].tolist())) == {"format": "int8_tensorwise"}
    assert tensors[f"{place}.weight"].dtype is torch.int8
    params = TensorWiseINT8Layout.Params(
        scale=tensors[f"{place}.weight_scale"], orig_dtype=torch.float32, orig_shape=tuple(ours.codes.shape)
    )
    weight = QuantizedTensor(tensors[f"{place}.weight"], "TensorWiseINT8Layout", params)
    assert torch.equal(weight.dequantize(), ours.weight())
    x = torch.randn(64, ours.codes.shape[1], generator=torch.Generator().manual_seed(0))
    step = x.abs().amax(dim=1, keepdim=True) / 127
    expected = (x / step).round() * step @ ours.weight().T
    computed = torch.nn.functional.linear(x, weight)
    assert float((computed - expected).norm() / expected.norm()) < 1e-3


def test_which_layers_are_int8(comfy, file):
    int8, half = load_file(comfy), load_file(file)
    linear = {name.removesuffix(".comfy_quant") for name in int8 if name.endswith(".comfy_quant")}
    assert len(linear) == 160
    for name, tensor in half.items():
        if name.removesuffix(".weight") in linear:
            on_grid = int8[name] * int8[name.replace(".weight", ".weight_scale")]
            assert torch.equal(on_grid.half(), tensor)
        else:
            assert torch.equal(int8[name], tensor)
    assert comfy.stat().st_size < file.stat().st_size


def test_static_scales_are_lost_in_comfyui(per_step, tmp_path):
    run, state = per_step
    words = ("export", "--state", state, "--format", "comfyui-int8", "--output", tmp_path / "x.safetensors")
    assert "calibrated activation scales give way" in run(*words, code=2).stderr
    run(*words, "--lossy")
