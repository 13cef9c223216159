"""The configuration, recipe and model card of an exported folder."""

from sdquant_cli.manifests import ModelRef, QuantStateFacts, QuantStateSpec
from sdquant_cli.runtime.description import card, config_of, portable, recipe_of
from sdquant_cli.runtime.network import Layout
from sdquant_cli.types import Bits, ExportFormat, Ranges, Relax, Tables
from tests.fakes import setting

SPEC = QuantStateSpec(
    method="rtn",
    bits="w4a8",
    mixed=True,
    tables=Tables.PER_STEP,
    ranges=Ranges.MSE,
    iterations=0,
    batch_size=8,
    seed=0,
    loss=None,
    train=None,
)


def facts(source: str = "shapes") -> QuantStateFacts:
    return QuantStateFacts(
        setting=setting("ddim", 20, model=ModelRef(source=source, digest="0" * 64)),
        layers=3,
        bits={"a": "w8a8"},
        average_bits={"weights": 4.25},
        losses=(),
        borrowed_rows=0,
    )


def test_the_config_lists_layers_that_differ_from_the_most_common_bits():
    bits = {"a": Bits(8, 8), "b": Bits(4, 8), "c": Bits(4, 8)}
    layout = Layout(bits, (3.0, 1.0), Tables.SINGLE, time_table=False, relax=Relax.FIRST)
    config = config_of(layout)
    assert (config.bits, config.layers) == ("w4a8", {"w8a8": ["a"]})
    assert config.layout(list(bits)) == layout


def test_a_model_is_named_without_folders_of_this_machine(tmp_path):
    file = tmp_path / "tuned.safetensors"
    file.write_bytes(b"")
    ref = ModelRef(source=str(file), digest="1", base="runwayml/stable-diffusion-v1-5")
    assert portable(ref) == {
        "source": "tuned.safetensors",
        "digest": "1",
        "base": "runwayml/stable-diffusion-v1-5",
    }
    assert recipe_of(ExportFormat.PACKED, SPEC, facts(str(file)))["setting"]["model"]["source"] == file.name


def test_the_recipe_has_the_calibration():
    recipe = recipe_of(ExportFormat.PACKED, SPEC, facts())
    assert recipe["calibration"]["method"] == "rtn"
    assert (recipe["format"], recipe["bits"], recipe["setting"]["steps"]) == ("packed", {"a": "w8a8"}, 20)


def test_a_card_says_how_the_weights_are_loaded():
    packed = card(ExportFormat.PACKED, SPEC, facts("someone/model"))
    assert "base_model: someone/model" in packed
    assert "import sdquant_cli  # pip install sdquant" in packed
    assert "4.25 bits of weights" in packed
    assert "num_inference_steps=20" in packed
    graph = card(ExportFormat.ONNX, SPEC, facts("shapes"))
    assert "sdquant_cli.load(FOLDER)" in graph
    assert "verify" not in graph
    dense = card(ExportFormat.DEQUANT, SPEC, facts("shapes"))
    assert "sdquant_cli" not in dense
    assert "base_model" not in dense
