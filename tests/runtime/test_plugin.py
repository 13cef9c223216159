"""The quantization_config of a config.json, and what diffusers asks of the quantizer."""

import pytest
import torch

from sdquant_cli.errors import DamagedArtifact, NewerFormat
from sdquant_cli.quant.format import PAPER, NumberFormat
from sdquant_cli.quant.rows import Rows
from sdquant_cli.runtime.layers import TABLES, PackedSpec, packed
from sdquant_cli.runtime.plugin import SdquantConfig, SdquantQuantizer
from sdquant_cli.types import Bits, Relax, Tables

FIELDS = {
    "format_version": 1,
    "bits": "w4a8",
    "layers": {"w8a8": ["second"]},
    "timesteps": [981.0, 1.5],
    "relax": "last",
}


def config(**fields) -> SdquantConfig:
    return SdquantConfig(**{**FIELDS, **fields})


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        linear = torch.nn.Linear(4, 2)
        self.first = packed(linear, PackedSpec(Bits(4, 8), PAPER, 2, text_fed=False), Rows([1.0, 2.0]))
        self.second = torch.nn.Linear(2, 2)


@pytest.fixture
def quantizer() -> SdquantQuantizer:
    return SdquantQuantizer(config(), pre_quantized=True)


def test_a_configuration_is_the_layout_of_named_layers():
    layout = config().layout(["first", "second"])
    assert layout.bits == {"first": Bits(4, 8), "second": Bits(8, 8)}
    assert layout.timesteps == (981.0, 1.5)
    assert (layout.tables, layout.relax, layout.time_table) == (Tables.PER_STEP, Relax.LAST, True)


def test_it_is_written_as_it_was_read_without_digests():
    first = config(sha256={"a.safetensors": "0" * 64}, made_with="0.1").to_dict()
    assert "sha256" not in first
    assert first["timesteps"] == [981, 1.5]
    assert (first["quant_method"], first["format_version"]) == ("sdquant", 1)
    fields = {name: value for name, value in first.items() if name != "quant_method"}
    assert SdquantConfig(**fields).to_diff_dict() == first


def test_scales_found_at_run_time_have_a_format_that_older_versions_refuse():
    first = SdquantConfig(bits="w4a8", group_size=16)
    assert first.layout(["a"]).form == NumberFormat(per_token=True, full_range=True, group_size=16)
    fields = {name: value for name, value in first.to_dict().items() if name != "quant_method"}
    assert fields["format_version"] == 2
    assert SdquantConfig(**fields).to_dict() == first.to_dict()


def test_tables_need_timesteps():
    with pytest.raises(DamagedArtifact, match="timesteps: is empty, with calibrated activation scales"):
        config(timesteps=[]).layout(["second"])


@pytest.mark.parametrize(
    ("fields", "error", "line"),
    [
        ({"format_version": 3, "made_with": "9"}, NewerFormat, "written by sdquant 9 in format 3"),
        ({"format_version": "1"}, DamagedArtifact, "format_version is '1', expected 1"),
        ({"bits": 4}, DamagedArtifact, "quantization_config.bits: .*found 4"),
    ],
)
def test_a_field_that_cannot_be_is_named(fields, error, line):
    with pytest.raises(error, match=line):
        config(**fields)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"layers": {"w8a8": ["third"]}}, "layers names third, which is not a layer"),
        ({"timesteps": [1.0, 1.0]}, "timesteps has duplicates"),
        ({"bits": "w99a8"}, "expected w<2..8>a<2..16>"),
    ],
)
def test_a_layout_that_is_inconsistent_is_damage(fields, line):
    with pytest.raises(DamagedArtifact, match=line):
        config(**fields).layout(["first", "second"])


def test_tensors_of_packed_layers_are_taken_from_the_file(quantizer):
    net = Net()
    ours = [name for name in net.state_dict() if quantizer.check_if_quantized_param(net, None, name, {})]
    assert ours == [f"first.{field}" for field in ("weight", *TABLES)]
    step = torch.tensor([0.5, 0.25])
    cast, device = step.half(), torch.device("cpu")
    name = "first.activation_step"
    quantizer.create_quantized_param(net, cast, name, device, {name: step})
    assert net.first.activation_step.dtype is torch.float32
    assert torch.equal(net.first.activation_step, step)
    with pytest.raises(DamagedArtifact, match=r"activation_step: is torch.float16 \(2,\), config.json says"):
        quantizer.create_quantized_param(net, cast, name, device, {name: cast})


def test_weight_files_are_checked_against_their_digests(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"weights")
    quantizer = SdquantQuantizer(config(sha256={file.name: "0" * 64}), pre_quantized=True)
    with pytest.raises(DamagedArtifact, match=r"a\.safetensors: has changed"):
        quantizer.maybe_update_loaded_keys(["key"], [str(file)])
    monkeypatch.setenv("SDQUANT_SKIP_SHA256", "1")
    assert quantizer.maybe_update_loaded_keys(["key"], [str(file)]) == ["key"]


def test_what_diffusers_asks(quantizer):
    assert quantizer.update_torch_dtype(None) is torch.float32
    assert quantizer.update_torch_dtype(torch.bfloat16) is torch.bfloat16
    assert (quantizer.is_serializable, quantizer.is_trainable) == (True, False)
