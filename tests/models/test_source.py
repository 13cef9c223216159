"""Models as users name them: folders that are not right, adapters, single files."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdquant_cli.errors import EnvironmentProblem, UsageProblem
from sdquant_cli.models.layers import quantizable_layers
from sdquant_cli.models.load import ModelName, find_model
from sdquant_cli.models.uninterrupted import uninterrupted
from sdquant_cli.quant.format import PAPER
from sdquant_cli.quant.modules import LayerState, QuantLinear
from sdquant_cli.quant.rows import Rows
from sdquant_cli.quant.swap import swap
from sdquant_cli.quant.weights import weight_scales
from sdquant_cli.types import Bits, Dtype
from tests.models import ldm


@pytest.fixture
def copied(tiny, tmp_path):
    """A copy of a tiny pipeline to damage."""

    def make(name):
        return shutil.copytree(tiny(name), tmp_path / name)

    return make


def weights(folder):
    return next(folder.glob("*.safetensors"))


def test_sdxl_without_its_second_encoder(copied):
    folder = copied("sdxl")
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(UsageProblem, match="has no text_encoder_2/; expected a Stable Diffusion XL pipeline"):
        find_model(str(folder))


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_tensors_that_are_not_those_of_the_configuration(copied, change):
    folder = copied("sd-v1-4")
    path = weights(folder / "unet")
    tensors = load_file(path)
    if change == "missing":
        del tensors["conv_out.bias"]
    else:
        tensors["conv_out.more"] = torch.zeros(1)
    save_file(tensors, path, {"format": "pt"})
    name = "conv_out.bias" if change == "missing" else "conv_out.more"
    with pytest.raises(UsageProblem, match=f"1 {change} tensors, the first {name}"):
        find_model(str(folder)).denoiser()


def test_weights_that_overflow_fp16(copied):
    folder = copied("sd-v1-4")
    path = weights(folder / "unet")
    tensors = load_file(path)
    tensors["conv_out.bias"][0] = 1e6
    save_file(tensors, path, {"format": "pt"})
    find_model(str(folder)).denoiser(Dtype.BF16)
    with pytest.raises(UsageProblem, match=r"conv_out\.bias overflows fp16; use --dtype bf16"):
        find_model(str(folder)).denoiser(Dtype.FP16)


def test_pickles_are_refused_with_the_way_out(copied, tmp_path):
    folder = copied("sd-v1-4")
    weights(folder / "unet").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UsageProblem, match=r"is a pickle.*save_pretrained"):
        find_model(str(folder)).denoiser()
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(UsageProblem, match=r"model\.ckpt: is a pickle.*from_single_file"):
        find_model(str(tmp_path / "model.ckpt"))


def test_an_unet_of_another_kind_names_its_field(copied):
    folder = copied("sd-v1-4")
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "in_channels": 9}))
    with pytest.raises(UsageProblem, match="in_channels is 9; supported: 4"):
        find_model(str(folder))


def test_a_hub_id_that_is_not_cached_offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="hf download nobody/nothing --revision v2"):
        find_model(ModelName("nobody/nothing", revision="v2"))


@pytest.fixture
def adapter(tmp_path):
    """A LoRA adapter as diffusers saves it, for one layer of the denoiser and one of the text encoder."""
    import diffusers

    g = torch.Generator().manual_seed(0)

    def pair(path, layer):
        out, into = layer.weight.shape[:2]
        return {
            f"{path}.lora_A.weight": torch.randn(2, into, generator=g),
            f"{path}.lora_B.weight": torch.randn(out, 2, generator=g),
        }

    def save(model, denoiser_layer, text=False):
        network, name = model.denoiser(), model.family.folder
        parts = {f"{name}_lora_layers": pair(denoiser_layer, network.get_submodule(denoiser_layer))}
        if text:
            path = "layers.0.self_attn.q_proj"
            encoder = model.text_pipeline().text_encoder
            found = next(n for n, _ in encoder.named_modules() if n.endswith(path))
            parts["text_encoder_lora_layers"] = pair(found, encoder.get_submodule(found))
        getattr(diffusers, model.family.pipelines[0]).save_lora_weights(tmp_path, **parts)
        return tmp_path / "pytorch_lora_weights.safetensors", parts

    return save


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("sd-v1-4", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"),
        ("sdxl", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"),
        ("sd3-medium", "transformer_blocks.1.attn.to_q"),
    ],
)
def test_an_adapter_is_added_to_the_weights_and_decides_the_digest(tiny, adapter, name, layer):
    plain = find_model(str(tiny(name)))
    file, parts = adapter(plain, layer)
    adapted = find_model(ModelName(str(tiny(name)), lora=str(file), lora_scale=0.5))
    before, after = plain.denoiser(), adapted.denoiser()
    down, up = parts[f"{plain.family.folder}_lora_layers"].values()
    expected = before.get_submodule(layer).weight + 0.5 * up @ down
    torch.testing.assert_close(after.get_submodule(layer).weight, expected)
    assert [n for n, _ in before.named_modules()] == [n for n, _ in after.named_modules()]
    unscaled = find_model(ModelName(str(tiny(name)), lora=str(file)))
    digests = {plain.ref.digest, adapted.ref.digest, unscaled.ref.digest}
    assert len(digests) == 3


def test_an_adapters_text_encoder_part_counts_too(tiny, adapter):
    plain = find_model(str(tiny("sd-v1-4")))
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    file, parts = adapter(plain, layer, text=True)
    adapted = find_model(ModelName(str(tiny("sd-v1-4")), lora=str(file)))
    path, (down, up) = (
        next(iter(parts["text_encoder_lora_layers"])).removesuffix(".lora_A.weight"),
        parts["text_encoder_lora_layers"].values(),
    )
    before, after = (m.text_pipeline().text_encoder.state_dict() for m in (plain, adapted))
    found = next(value for key, value in after.items() if key.endswith(f"{path}.weight"))
    torch.testing.assert_close(found, before[f"{path}.weight"] + up @ down)


def test_an_adapter_that_is_none(tiny, tmp_path):
    with pytest.raises(
        UsageProblem, match=r"none\.bin: expected a \.safetensors file, or a folder with pytorch_lora"
    ):
        find_model(ModelName(str(tiny("sd-v1-4")), lora=str(tmp_path / "none.bin"))).denoiser()
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(UsageProblem, match="--lora"):
        find_model(ModelName(str(tiny("sd-v1-4")), lora=str(tmp_path / "x.safetensors"))).denoiser()


def test_an_unfused_adapter_can_be_put_on_quantized_layers(tiny, adapter):
    """Quantized layers are subclasses of what they replace, so PEFT wraps them."""
    model = find_model(str(tiny("sd-v1-4")))
    layer = "up_blocks.3.attentions.1.transformer_blocks.0.attn1.to_v"
    file, _ = adapter(model, layer)
    network, rows = model.denoiser(), Rows([5.0])
    weight_grid, grid = PAPER.grids(Bits(4, 8))
    states = {
        name: LayerState(
            weight_scales(found.weight, weight_grid),
            torch.tensor([0.05]),
            torch.tensor([128.0]),
            weight_grid,
            grid,
        )
        for name, found in quantizable_layers(network).items()
    }
    swap(network, states, rows, weights_on_grid=False)
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 16)
    with torch.no_grad():
        before = network(x, 5.0, text).sample
        network.load_lora_adapter(load_file(file), prefix="unet")
        after = network(x, 5.0, text).sample
    assert isinstance(network.get_submodule(layer).base_layer, QuantLinear)
    assert not torch.equal(before, after)


def test_a_single_file_is_converted_once_and_is_the_same_model(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, file = tiny("sd-v1-4"), tmp_path / "fine-tune.safetensors"
    ldm.write(folder, file)
    original, converted = find_model(str(folder)), find_model(ModelName(str(file), base=str(folder)))
    for part in ("denoiser", "vae"):
        ours, theirs = (getattr(model, part)().state_dict() for model in (original, converted))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    again = find_model(ModelName(str(file), base=str(folder)))
    assert again.folder == converted.folder
    assert again.ref == converted.ref
    assert len(list((tmp_path / "cache" / "sdquant" / "models").iterdir())) == 1


def test_a_file_that_is_no_checkpoint(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(UsageProblem, match=r"x\.safetensors: diffusers cannot read it .* --base"):
        find_model(ModelName(str(file), base=str(tiny("sd-v1-4"))))
    (tmp_path / "x.txt").touch()
    with pytest.raises(UsageProblem, match=r"expected a folder, a \.safetensors file or a Hub id"):
        find_model(str(tmp_path / "x.txt"))


def test_an_interrupt_waits_for_what_is_being_loaded(request):
    # a test run in the background of a script was started with interrupts ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    reached = []

    def load():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        load()
    assert reached == ["the end"]
    with pytest.raises(KeyboardInterrupt):  # and is as prompt as ever afterwards
        signal.raise_signal(signal.SIGINT)
