"""What configuration files say about a model, without its weights."""

import shutil

import pytest

from sdquant_cli.models.description import ModelDescription
from sdquant_cli.models.layers import quantizable_layers
from sdquant_cli.models.load import find_model
from sdquant_cli.models.source import ModelName


@pytest.fixture
def described(tiny):
    """Describe a tiny pipeline by its name."""
    return lambda name, **options: ModelDescription(ModelName(str(tiny(name))), tiny(name), **options)


@pytest.mark.parametrize("name", ["sd-v1-4", "sdxl", "sd3-medium"])
def test_shapes_are_those_of_the_networks(tiny, described, name):
    description, model = described(name), find_model(str(tiny(name)))
    network = model.denoiser()
    shapes = {layer: module.weight.shape for layer, module in quantizable_layers(network).items()}
    assert description.layer_shapes == shapes
    assert all(parameter.is_meta for parameter in description.skeleton.parameters())
    channels, h, w = description.latent_shape(64, 128)
    assert channels == network.config.in_channels
    assert (h * description.latent_factor, w * description.latent_factor) == (64, 128)
    texts = model.text_pipeline()
    for part, count in description.text_parameters.items():
        assert sum(p.numel() for p in getattr(texts, part).parameters()) == count


def test_no_weights_are_opened(described, tiny, tmp_path):
    folder = shutil.copytree(tiny("sdxl"), tmp_path / "sdxl")
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(b"")
    description, whole = ModelDescription(ModelName(str(folder)), folder), described("sdxl")
    assert description.layer_shapes == whole.layer_shapes
    assert description.default_size == whole.default_size
    assert description.pooled_width == whole.pooled_width
    assert description.embedding_width == whole.embedding_width
    assert description.default_scheduler == whole.default_scheduler


def test_split_shortcuts_have_layers_of_their_own(described):
    plain, split = described("sd-v1-4"), described("sd-v1-4", split_shortcuts=True)
    added = split.layer_shapes.keys() - plain.layer_shapes.keys()
    removed = plain.layer_shapes.keys() - split.layer_shapes.keys()
    assert {name.rpartition(".")[0] for name in added} == removed
    assert {name.rpartition(".")[2] for name in added} == {"upward", "skipped"}


def test_components_are_those_of_the_index(described):
    description = described("sd3-medium")
    assert description.parts == {*description.other_parts, "transformer", "scheduler"}
    assert {part for part in description.index if part in description.parts} == description.parts
    assert description.component_config("scheduler")["_class_name"] == description.index["scheduler"][1]


def test_each_network_has_a_skeleton(described, tiny):
    description, model = described("sd3-medium"), find_model(str(tiny("sd3-medium")))
    assert description.networks == ["transformer", "text_encoder", "text_encoder_2", "vae"]
    texts = model.text_pipeline()
    loaded = {"vae": model.vae(), **{part: getattr(texts, part) for part in description.text_parts}}
    for part, network in loaded.items():
        skeleton = description.meta_network(part)
        assert {name: p.shape for name, p in skeleton.named_parameters()} == {
            name: p.shape for name, p in network.named_parameters()
        }
        assert all(parameter.is_meta for parameter in skeleton.parameters())
        assert description.weight_shapes(part).keys() == quantizable_layers(network).keys()
