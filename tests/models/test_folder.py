"""Pipeline folders that are not right: one line with file and field, before anything is built."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.folder import check_folder, class_in, read_defaults
from sdquant_cli.models.load import find_model

INDEX, UNET, SCHEDULER = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
TOKENIZER, TEXT = "tokenizer/tokenizer_config.json", "text_encoder/config.json"
ABSENT = object()


@pytest.fixture
def copied(tiny, tmp_path):
    """A copy of a tiny pipeline to damage."""
    return lambda name="sd-v1-4": shutil.copytree(tiny(name), tmp_path / name)


def edit(path, **fields):
    values = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ABSENT}))


def refusal(folder):
    with pytest.raises(UsageProblem) as caught:
        check_folder(folder, str(folder), None)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("file", "field", "value", "says"),
    [
        (INDEX, "unet", ["os", "system"], '["os", "system"]; expected ["diffusers", UNet2DConditionModel]'),
        (INDEX, "unet", ["diffusers", "Pipeline"], "expected"),
        (INDEX, "unet", ["diffusers"], "expected"),
        (INDEX, "unet", "__doc__", "expected"),
        (INDEX, "unet", None, "null; expected"),
        (INDEX, "unet", ABSENT, "null; expected"),
        (INDEX, "vae", ["diffusers", "AsymmetricAutoencoderKL"], "AutoencoderKL or AutoencoderTiny"),
        (INDEX, "text_encoder", ["transformers", "BertModel"], "CLIPTextModel"),
        (INDEX, "tokenizer", [None, None], "CLIPTokenizer"),
        (INDEX, "scheduler", ["diffusers", ["PNDMScheduler"]], "a scheduler of diffusers"),
        (INDEX, "scheduler", ["diffusers", "UNet2DModel"], "a scheduler of diffusers"),
        (INDEX, "_class_name", ["pipeline", "Mine"], "expected a valid string"),
        (INDEX, "_class_name", ABSENT, "is missing"),
        (UNET, "sample_size", None, "null; expected"),
        (UNET, "sample_size", "x", '"x"; expected a valid integer'),
        (UNET, "sample_size", 10**9, "expected at most 4096"),
        (UNET, "sample_size", [8], "expected"),
        (UNET, "cross_attention_dim", 10**9, "expected at most 16384"),
        (UNET, "cross_attention_dim", 32, "expected 16, the hidden_size"),
        (UNET, "attention_head_dim", 0, "expected at least 1"),
        (UNET, "layers_per_block", 10**6, "expected at most 64"),
        (UNET, "transformer_layers_per_block", [1, 10**7], "expected"),
        (UNET, "block_out_channels", [], "at least 1 item"),
        (UNET, "auto_map", {"AutoModel": "mine.Model"}, "code in the folder, which is never run"),
        ("vae/config.json", "scaling_factor", "x", "expected a valid number"),
        (TEXT, "num_hidden_layers", 10**9, "expected at most 256"),
        (SCHEDULER, "num_train_timesteps", "x", "expected a valid integer"),
        (SCHEDULER, "beta_schedule", "mine", "expected 'linear'"),
        (TOKENIZER, "model_max_length", ABSENT, "is missing"),
        (TOKENIZER, "model_max_length", 0, "expected at least 2"),
        (TOKENIZER, "model_max_length", 10**12, "expected at most 77"),
        (TOKENIZER, "model_max_length", "x", "expected a valid integer"),
        (TOKENIZER, "auto_map", {"AutoTokenizer": ["mine.T", None]}, "never run"),
    ],
)
def test_a_field_that_makes_no_sense(copied, file, field, value, says):
    folder = copied()
    edit(folder / file, **{field: value})
    message = refusal(folder)
    assert str(folder / file) in message
    assert field in message
    assert says in message


@pytest.mark.parametrize("file", [INDEX, UNET, "vae/config.json", SCHEDULER, TOKENIZER, TEXT])
def test_json_that_is_none(copied, file):
    folder = copied()
    for text in ("[]", "{", "[" * 100_000, '{"a": ' + "1" * 5000 + "}", "\0"):
        (folder / file).write_text(text)
        assert str(folder / file) in refusal(folder)
    (folder / file).unlink()
    assert f"{folder / file}: no such file" in refusal(folder)


def test_what_diffusers_takes_is_taken(copied):
    folder = copied()
    edit(folder / UNET, sample_size=[8, 12], norm_num_groups=4, of_the_future={"x": 1})
    edit(folder / SCHEDULER, _class_name=ABSENT)
    assert check_folder(folder, str(folder), None).folder == "unet"
    edit(folder / INDEX, scheduler=["diffusers", "EulerDiscreteScheduler"])
    assert find_model(str(folder)).default_scheduler == "euler"  # diffusers goes by the index
    edit(folder / UNET, layers_per_block=ABSENT)  # 2 for the class
    assert find_model(str(folder)).config["layers_per_block"] == 2


def test_a_network_that_its_class_refuses(copied):
    folder = copied()
    edit(folder / UNET, down_block_types=["NoSuchBlock"] * 4)
    with pytest.raises(UsageProblem, match=r"config\.json: UNet2DConditionModel refuses it"):
        _ = find_model(str(folder)).skeleton


def test_sizes_of_sdxls_pooled_text(copied):
    folder = copied("sdxl")
    edit(folder / UNET, projection_class_embeddings_input_dim=20)
    assert "projection_class_embeddings_input_dim is 20; expected 64" in refusal(folder)
    edit(folder / UNET, projection_class_embeddings_input_dim=ABSENT)
    assert "projection_class_embeddings_input_dim is missing" in refusal(folder)


def test_t5_is_there_where_the_index_says_so(copied):
    folder = copied("sd3-medium")
    edit(folder / INDEX, text_encoder_3=["transformers", "T5EncoderModel"])
    edit(folder / INDEX, tokenizer_3=["transformers", "T5TokenizerFast"])
    assert "has no text_encoder_3/" in refusal(folder)
    (folder / "text_encoder_3").mkdir()
    edit(folder / INDEX, text_encoder_3=[None, None])
    assert find_model(str(folder)).text_parts == ["text_encoder", "text_encoder_2"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"steps": "x"}', "steps is"),
        ('{"guidance_scale": 1e999}', "guidance_scale is"),
        ("[1]", "an object"),
    ],
)
def test_defaults_of_a_model(copied, text, says):
    folder = copied()
    family = check_folder(folder, str(folder), None)
    (folder / "sdquant.json").write_text(text)
    with pytest.raises(UsageProblem, match=says):
        read_defaults(folder, family)
    (folder / "sdquant.json").write_text('{"steps": 20, "more": 1}')
    assert (read_defaults(folder, family).steps, read_defaults(folder, family).guidance_scale) == (20, 7.5)


# --------------------------------------------------------------------------------- tokenizers


def test_a_tokenizer_without_vocabulary(copied):
    folder = copied()
    path = folder / "tokenizer" / "tokenizer.json"
    text = path.read_text()
    path.unlink()
    assert "has no vocabulary; expected tokenizer.json, or vocab.json and merges.txt" in refusal(folder)
    for damaged in (text[:999], "[]", "{}"):
        path.write_text(damaged)
        with pytest.raises(UsageProblem, match="tokenizer"):
            find_model(str(folder)).tokenizer()


def test_vocabulary_and_merges_are_a_tokenizer_too(copied):
    folder = copied()
    before = find_model(str(folder)).tokenizer()
    path = folder / "tokenizer" / "tokenizer.json"
    model = json.loads(path.read_text())["model"]
    path.unlink()
    (path.parent / "vocab.json").write_text(json.dumps(model["vocab"]))
    assert "has no vocabulary" in refusal(folder)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (path.parent / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    text = "a big red circle, naïve 猫"
    assert find_model(str(folder)).tokenizer()(text).input_ids == before(text).input_ids


def test_tokens_without_an_embedding(copied):
    folder = copied()
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("token_embedding.weight"))
    tensors[name] = tensors[name][:600].clone()
    save_file(tensors, path, {"format": "pt"})
    edit(folder / TEXT, vocab_size=600, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    with pytest.raises(UsageProblem, match=r"tokenizer: .* is token 618; expected less than .* 600"):
        find_model(str(folder)).text_pipeline()


# ------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("part", "load"),
    [
        ("unet", lambda model: model.denoiser()),
        ("text_encoder", lambda model: model.text_pipeline()),
        ("vae", lambda model: model.vae()),
    ],
)
def test_weights_that_are_not_finite_or_cut(copied, part, load):
    folder = copied()
    path = next((folder / part).glob("*.safetensors"))
    tensors = load_file(path)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UsageProblem, match=rf"{part}: .* has numbers that are not finite"):
        load(find_model(str(folder)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageProblem, match=r"\.safetensors: Error while deserializing header"):
        load(find_model(str(folder)))


def test_single_tensors_that_are_not_finite(copied):
    folder = copied()
    path = next((folder / "unet").glob("*.safetensors"))
    tensors = load_file(path)
    tensors["time_embedding.linear_1.bias"][0] = torch.inf
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UsageProblem, match=r"time_embedding\.linear_1\.bias has numbers that are not finite"):
        find_model(str(folder)).time_path()


def test_a_class_is_one_that_the_family_accepts(copied):
    folder = copied("sd3-medium")
    assert class_in(folder, "text_encoder_2").__name__ == "CLIPTextModelWithProjection"
    assert class_in(folder, "transformer").__name__ == "SD3Transformer2DModel"
    edit(folder / INDEX, vae=["os", "system"])
    with pytest.raises(UsageProblem, match=r"vae is .*; expected .*AutoencoderKL"):
        class_in(folder, "vae")
