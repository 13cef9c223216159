"""Exported folders whose bytes or numbers are not what was written: named when loaded, and by `verify`."""

import json
import pickle

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sdquant_cli.errors import DamagedArtifact, NewerFormat
from sdquant_cli.runtime import proof
from sdquant_cli.runtime.checks import check_numbers
from tests.runtime.exports import WEIGHTS, change_config, load, read_config, seal, weights


def test_a_truncated_file_is_named(exported, folder):
    file = weights(folder)
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file}: has changed since it was written" in exported[0]("verify", folder, code=3).stderr
    with pytest.raises(OSError, match="diffusion_pytorch_model"):
        load(folder)


def test_an_edited_and_a_missing_file_are_named(exported, folder):
    (folder / "recipe.json").write_text("{}")
    assert "recipe.json: has changed since it was written" in exported[0]("verify", folder, code=3).stderr
    (folder / "recipe.json").unlink()
    assert "recipe.json: is missing" in exported[0]("verify", folder, code=3).stderr
    (folder / "provenance.json").unlink()
    assert "no provenance.json" in exported[0]("verify", folder, code=2).stderr


def test_wrong_numbers_are_found_by_the_stored_call(exported, folder):
    tensors = load_file(folder / "selftest.safetensors")
    tensors["output"] = -tensors["output"]
    save_file(tensors, folder / "selftest.safetensors")
    seal(folder)
    assert "self-test failed on engine" in exported[0]("verify", folder, code=3).stderr


def write_tensors(folder, **tensors):
    """Other tensors in the weight file, None: without it; the digests fit."""
    all_tensors = load_file(weights(folder)) | tensors
    present = {name: tensor for name, tensor in all_tensors.items() if tensor is not None}
    save_file(present, weights(folder), {"format": "pt"})
    seal(folder)


def test_a_missing_tensor(folder):
    write_tensors(folder, **{"mid_block.resnets.0.conv1.weight_step": None})
    with pytest.raises(
        DamagedArtifact, match=r"1 tensors are missing.*mid_block.resnets.0.conv1.weight_step"
    ):
        load(folder)


def test_a_tensor_of_another_type(folder):
    step = load_file(weights(folder))["conv_in.weight_step"].half()
    write_tensors(folder, **{"conv_in.weight_step": step})
    with pytest.raises(DamagedArtifact, match=r"conv_in.weight_step: is torch.float16"):
        load(folder)


@pytest.fixture(scope="module")
def network(exported):
    return load(exported[1])


FOUR_BITS = "mid_block.resnets.0.conv1"  # weights; conv_in has 8, and 16 for its input


@pytest.mark.parametrize(
    ("name", "number", "said"),
    [
        ("conv_in.weight_step", float("nan"), "not finite and positive"),
        ("conv_in.weight_step", 0.0, "not finite and positive"),
        (f"{FOUR_BITS}.activation_step", float("inf"), "not finite and positive"),
        (f"{FOUR_BITS}.activation_step", -1.0, "not finite and positive"),
        (f"{FOUR_BITS}.activation_zero", -1, "zero-points outside the grid"),
        (f"{FOUR_BITS}.activation_zero", 256, "zero-points outside the grid"),
        ("conv_in.activation_zero", 65536, "zero-points outside the grid"),
        ("conv_in.weight", -128, "codes outside -127 ... 127"),
        (f"{FOUR_BITS}.weight", 0x08, "codes outside -7 ... 7"),
        (f"{FOUR_BITS}.weight", 0x80, "codes outside -7 ... 7"),
    ],
)
def test_numbers_that_no_calibration_gives(network, name, number, said):
    tensor = network.state_dict()[name].view(-1)
    before = tensor[0].clone()
    tensor[0] = number
    with pytest.raises(DamagedArtifact, match=f"{name}: .*{said}.*sdquant export"):
        check_numbers(network)
    tensor[0] = before
    check_numbers(network)


def test_numbers_are_checked_when_loaded(folder):
    steps = load_file(weights(folder))["conv_in.weight_step"]
    write_tensors(folder, **{"conv_in.weight_step": 0 * steps})
    with pytest.raises(DamagedArtifact, match=r"conv_in.weight_step: .*not finite and positive"):
        load(folder)


def test_a_flipped_bit_is_found_by_diffusers(folder, monkeypatch):
    written = bytearray(weights(folder).read_bytes())
    written[len(written) // 2] ^= 1
    weights(folder).write_bytes(written)
    for cls, path in ((DiffusionPipeline, folder), (UNet2DConditionModel, folder / "unet")):
        with pytest.raises(DamagedArtifact, match=f"{weights(folder)}: has changed.*`sdquant export`"):
            cls.from_pretrained(path)
    monkeypatch.setenv("SDQUANT_SKIP_SHA256", "1")
    assert load(folder).conv_in.installed


def test_saved_again_in_the_same_folder_the_digests_are_not_old_ones(folder):
    network = load(folder).to(torch.bfloat16)  # other bytes of what is not quantized
    network.save_pretrained(folder / "unet")
    assert load(folder).conv_in.installed


def test_a_newer_format(folder):
    change_config(folder, format_version=3, made_with="9.0")
    with pytest.raises(NewerFormat, match=r"written by sdquant 9.0 in format 3.*pip install -U sdquant"):
        load(folder)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("bits", 5, "valid string, found 5"),
        ("layers", ["conv_in"], "valid dictionary"),
        ("layers", {"w8a16": "conv_in"}, "valid list"),
        ("timesteps", [1, "x"], "valid number, found x"),
        ("timesteps", [1, float("nan")], "finite number, found nan"),
        ("timesteps", [751, 501, 251, 251], "has duplicates"),
        ("time_table", 1, "valid boolean"),
        ("sha256", "none", "valid dictionary"),
        ("format_version", "x", "is 'x', expected 1 ... 2"),
        ("format_version", None, "is None, expected 1 ... 2"),
    ],
)
def test_a_field_of_another_type(folder, field, value, said):
    change_config(folder, **{field: value})
    with pytest.raises(DamagedArtifact, match=rf"config.json: quantization_config\.{field}\b.*{said}"):
        load(folder)


def test_a_configuration_that_makes_no_sense(folder):
    change_config(folder, layers={"w8a16": ["conv_middle"]})
    with pytest.raises(DamagedArtifact, match="names conv_middle, which is not a layer"):
        load(folder)
    change_config(folder, layers={}, bits="w40a8")
    with pytest.raises(DamagedArtifact, match="w40a8"):
        load(folder)
    change_config(folder, bits="w4a8", relax="sideways")
    with pytest.raises(DamagedArtifact, match="sideways"):
        load(folder)


# ------------------------------------------------------------------------------------- verify


@pytest.mark.parametrize("at", range(5, 2000, 95))
def test_every_flip_in_the_list_of_digests_is_found(folder, at):
    path = folder / proof.PROVENANCE
    written = bytearray(path.read_bytes())
    written[at] ^= 1
    path.write_bytes(written)
    with pytest.raises(DamagedArtifact, match=r"provenance\.json"):
        proof.check_files(folder)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"quantization_config": ["w4a8"]}, "TypeError"),
        ({"quantization_config": {"quant_method": "gguf"}}, "quant_method is 'gguf', expected sdquant"),
        ({"_class_name": "os"}, "_class_name is 'os', expected UNet2DConditionModel"),
        ({"_class_name": ["a"]}, "expected UNet2DConditionModel"),
        ({"block_out_channels": "x"}, "diffusers cannot load it"),
    ],
)
def test_a_hostile_configuration_is_one_line(exported, folder, fields, said):
    (folder / "unet" / "config.json").write_text(json.dumps(read_config(folder) | fields))
    proof.write_provenance(folder, {})
    assert said in exported[0]("verify", folder, code=3).stderr


@pytest.mark.parametrize("name", ["provenance.json", "unet/config.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", "null", "\udcff"])
def test_what_is_no_object_is_one_line(exported, folder, name, text):
    (folder / name).write_text(text, errors="surrogateescape")
    if name != proof.PROVENANCE:
        proof.write_provenance(folder, {})
    said = exported[0]("verify", folder, code=3).stderr
    assert name in said
    assert said.count("\n") <= 2  # the other tells that all files are as they were written


def test_a_bias_of_another_shape_is_one_line(exported, folder):
    write_tensors(folder, **{"conv_in.bias": torch.zeros(3)})
    assert "conv_in.bias expected shape" in exported[0]("verify", folder, code=3).stderr


def test_a_self_test_without_a_call_is_one_line(exported, folder):
    save_file({"x": torch.zeros(1)}, folder / "selftest.safetensors")
    seal(folder)
    assert "has no call of this network" in exported[0]("verify", folder, code=3).stderr


class Opened:
    """Raises where it is unpickled."""

    def __reduce__(self):
        return exec, ("raise RuntimeError('a pickle was opened')",)


def test_a_pickle_is_not_opened(exported, folder):
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Opened()))
    said = exported[0]("verify", folder, code=3).stderr
    assert "diffusion_pytorch_model.bin: is not one of the exported files" in said
    weights(folder).unlink()
    proof.write_provenance(folder, {})
    said = exported[0]("verify", folder, code=3).stderr
    assert WEIGHTS in said
    assert "a pickle was opened" not in said
