"""Networks loaded from their folders, and the one line that a refusal has."""

import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.pretrained import load_network, reason_of


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of a tiny UNet to damage."""
    return shutil.copytree(tiny("sd-v1-4") / "unet", tmp_path / "unet")


def test_a_network_is_loaded_in_its_dtype_without_gradients(folder):
    network = load_network(UNet2DConditionModel, folder, None, torch.bfloat16)
    assert not network.training
    stored = load_file(next(folder.glob("*.safetensors")))
    for name, parameter in network.named_parameters():
        assert not parameter.requires_grad
        assert torch.equal(parameter, stored[name].bfloat16())


def test_weights_of_other_shapes_are_refused(folder):
    path = next(folder.glob("*.safetensors"))
    tensors = load_file(path)
    tensors["conv_out.bias"] = torch.zeros(5)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UsageProblem, match="tensors have other shapes than its config"):
        load_network(UNet2DConditionModel, folder, None, torch.float32)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_running_out_of_memory_is_no_fault_of_the_files(folder, error):
    class Large(UNet2DConditionModel):
        @classmethod
        def from_pretrained(cls, *_, **__):
            raise error

    with pytest.raises(type(error)) as caught:
        load_network(Large, folder, None, torch.float32)
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("Cannot load because:\ntwo\nthree"), "Cannot load because: two"),
        (ValueError(), "ValueError"),
        (ValueError("x ignore_mismatched_sizes=True"), "tensors have other shapes than its config.json says"),
    ],
)
def test_the_reason_is_one_line(error, reason):
    assert reason_of(error) == reason
