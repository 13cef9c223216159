"""Which weight files are read: those that diffusers and transformers read."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.load import ModelName, find_model
from sdquant_cli.models.weights import check_finite, dtype_in, find_weights, is_finite, need_weights


@pytest.fixture
def copied(tiny, tmp_path):
    return shutil.copytree(tiny("sd-v1-4"), tmp_path / "sd-v1-4")


def changed(path, target):
    """Write a file's tensors with one added to each."""
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, target, {"format": "pt"})


def in_parts(path, names=("00001-of-00002", "00002-of-00002"), *, shift=0.0):
    """Write a file's tensors again in two parts with an index."""
    tensors = {name: tensor + shift for name, tensor in load_file(path).items()}
    halves = (sorted(tensors)[::2], sorted(tensors)[1::2])
    where = {}
    for number, half in zip(names, halves, strict=True):
        file = path.with_name(f"{path.stem}-{number}.safetensors")
        save_file({name: tensors[name].contiguous() for name in half}, file, {"format": "pt"})
        where |= dict.fromkeys(half, file.name)
    index = path.with_name(f"{path.name}.index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def test_a_variant_falls_back_component_by_component(copied):
    ordinary = find_model(str(copied))
    file = copied / "unet" / "diffusion_pytorch_model.safetensors"
    changed(file, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    model = find_model(ModelName(str(copied), variant="fp16"))
    for name in ("conv_in.bias", "time_embedding.linear_1.bias"):
        expected = ordinary.denoiser().state_dict()[name] + 1
        assert torch.equal(model.denoiser().state_dict()[name], expected)
        assert torch.equal(model.tensors({name})[name], expected)
    assert torch.equal(model.time_path().time_embedding.linear_1.bias, expected)
    assert model.text_parameters == ordinary.text_parameters
    model.vae()
    assert model.ref.digest != ordinary.ref.digest
    file.unlink()
    with pytest.raises(UsageProblem, match=r"unet: has only weights of variant fp16; add `--variant fp16`"):
        find_model(str(copied))
    with pytest.raises(UsageProblem, match=r"--variant bf16: no component .* it has fp16"):
        find_model(ModelName(str(copied), variant="bf16"))


def test_files_that_are_not_read_do_not_count(copied):
    before = find_model(str(copied))
    digest, numbers = before.ref.digest, before.text_parameters
    for path in list(copied.rglob("*.safetensors")):
        changed(path, path.with_name(f"{path.stem}.fp16.safetensors"))
        changed(path, path.with_name(f"{path.stem}.non_ema.safetensors"))
        changed(path, path.with_name("other.safetensors"))
        path.with_name("pytorch_model.bin").write_bytes(b"x")
        path.with_name("README.md").write_text("x")
    after = find_model(str(copied))
    assert after.ref.digest == digest
    assert after.text_parameters == numbers
    assert torch.equal(
        after.time_path().time_embedding.linear_1.bias, before.denoiser().time_embedding.linear_1.bias
    )


def test_weights_whole_and_in_parts(copied):
    """diffusers takes the parts, transformers the whole; both are asked here."""
    model = find_model(str(copied))
    for part, load in (
        ("unet", model.denoiser),
        ("text_encoder", lambda: model.text_pipeline().text_encoder),
    ):
        file = next((copied / part).glob("*.safetensors"))
        in_parts(file, shift=1.0)
        weights = find_weights(copied / part, None)
        assert (weights.index is not None) == (part == "unet")
        loaded = load().state_dict()
        for name, tensor in (t for path in weights.files for t in load_file(path).items()):
            assert torch.equal(loaded[name.removeprefix("text_model.")], tensor)
    file = next((copied / "unet").glob("*-00002-of-00002.safetensors"))
    file.unlink()
    with pytest.raises(
        UsageProblem, match=r"00002-of-00002\.safetensors: no such file, but .*index\.json names"
    ):
        find_model(str(copied))


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../b.safetensors"}}']
)
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / "unet").mkdir()
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(UsageProblem, match=r"index\.json: .*weight_map"):
        need_weights(tmp_path / "unet", None)


def test_a_variants_pickle_is_not_passed_over(copied):
    (copied / "unet" / "diffusion_pytorch_model.fp16.bin").write_bytes(b"x")
    with pytest.raises(UsageProblem, match=r"fp16\.bin: is a pickle"):
        find_model(ModelName(str(copied), variant="fp16"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_numbers_that_are_not_finite(dtype, tmp_path):
    values = torch.ones(3, 4).to(dtype)
    assert is_finite(values)
    values[1, 2] = torch.tensor(torch.nan).to(dtype)
    assert not is_finite(values)
    assert is_finite(torch.empty(0))
    assert is_finite(torch.ones(2, dtype=torch.int64))
    layer = torch.nn.Linear(2, 2)
    layer.bias.data[0] = -torch.inf
    with pytest.raises(UsageProblem, match="bias has numbers that are not finite"):
        check_finite(layer, tmp_path, None)


def test_the_dtype_of_a_component_is_the_widest_of_its_numbers(tmp_path):
    file, half = tmp_path / "model.safetensors", torch.zeros(2, dtype=torch.float16)
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    for tensors, dtype in (
        ({"a": half}, torch.float16),
        ({"a": half.bfloat16(), "b": torch.zeros(1, dtype=torch.int64)}, torch.bfloat16),
        ({"a": half, "b": half.float()}, torch.float32),
        ({}, torch.float32),
    ):
        save_file(tensors, folder / file.name)
        assert dtype_in(folder, None) is dtype
