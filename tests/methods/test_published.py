"""Published methods: their choices as the papers and their scripts have them."""

import pytest

from sdquant_cli.calibration.recipe import Recipe
from sdquant_cli.calibration.sources import MixedLatents, NoisedPictures, TrajectoryBatches
from sdquant_cli.errors import UsageProblem
from sdquant_cli.manifests import LossSpec
from sdquant_cli.methods.eda_dm import RECIPE as EDA_DM
from sdquant_cli.methods.parallel import RECIPE as PARALLEL
from sdquant_cli.methods.pcr import RECIPE as PCR
from sdquant_cli.methods.pqd import RECIPE as PQD
from sdquant_cli.methods.ptq4dm import RECIPE as PTQ4DM
from sdquant_cli.methods.published import METHODS
from sdquant_cli.methods.q_diffusion import RECIPE as Q_DIFFUSION
from sdquant_cli.methods.resolve import on_family, recipe_of, spec_of
from sdquant_cli.methods.rtn import RECIPE as RTN
from sdquant_cli.methods.serial import RECIPE as SERIAL
from sdquant_cli.methods.serial_to_parallel import RECIPE as SERIAL_TO_PARALLEL
from sdquant_cli.models.families import FAMILIES
from sdquant_cli.options.option import Option
from sdquant_cli.options.requests import CalibrateRequest
from sdquant_cli.types import FLOATING, Ranges, Relax, Select, Tables, Train

IN_ORDER = {
    "serial-to-parallel": SERIAL_TO_PARALLEL,
    "serial": SERIAL,
    "parallel": PARALLEL,
    "eda-dm": EDA_DM,
    "pqd": PQD,
    "q-diffusion": Q_DIFFUSION,
    "ptq4dm": PTQ4DM,
    "pcr": PCR,
    "rtn": RTN,
}


def test_help_names_every_method():
    described = CalibrateRequest.model_fields["method"].metadata
    (option,) = [item for item in described if isinstance(item, Option)]
    assert all(name in option.help for name in METHODS)


def test_each_method_is_one_file_that_cites_its_source():
    assert list(METHODS) == list(IN_ORDER)
    for name, recipe in IN_ORDER.items():
        assert METHODS[name] is recipe
        assert recipe.name == name
        assert recipe.cites


def test_a_recipe_trains_as_a_whole_or_block_by_block_or_not_at_all():
    assert not Recipe(name="none", cites="").trains
    assert Recipe(name="whole", cites="", source=MixedLatents).trains
    assert [name for name, recipe in METHODS.items() if not recipe.trains] == ["rtn"]


def test_networks_trained_as_a_whole_differ_in_their_batches():
    assert SERIAL_TO_PARALLEL.source is MixedLatents
    assert SERIAL.source is TrajectoryBatches
    assert PARALLEL.source is NoisedPictures
    assert [name for name, recipe in METHODS.items() if recipe.needs_pictures] == ["parallel"]
    assert [name for name, recipe in METHODS.items() if recipe.stored_items] == ["serial-to-parallel"]


@pytest.mark.parametrize(
    ("recipe", "drop", "mixed_inputs", "joint"),
    [(EDA_DM, 0.5, 0.5, True), (PQD, 0.5, 0.5, True), (Q_DIFFUSION, 1.0, 0.0, False), (PCR, 1.0, 1.0, False)],
)
def test_blocks_are_reconstructed_as_published(recipe, drop, mixed_inputs, joint):
    """QDrop's halves with scales learned jointly; AdaRound on unquantized activations."""
    spec = recipe.reconstruct
    assert (spec.drop, spec.mixed_inputs, spec.joint) == (drop, mixed_inputs, joint)


def test_only_eda_dm_compares_layers_and_only_q_diffusion_has_a_second_phase_and_split_shortcuts():
    reconstructing = {name: recipe for name, recipe in METHODS.items() if recipe.reconstruct}
    assert list(reconstructing) == ["eda-dm", "pqd", "q-diffusion", "ptq4dm", "pcr"]
    assert [name for name, recipe in reconstructing.items() if recipe.reconstruct.layer_weight] == ["eda-dm"]
    assert [name for name, recipe in reconstructing.items() if recipe.reconstruct.second] == ["q-diffusion"]
    assert [name for name, recipe in METHODS.items() if recipe.split_shortcuts] == ["q-diffusion"]


def test_latents_are_selected_as_published():
    selected = {name: recipe.data.select for name, recipe in METHODS.items()}
    assert selected.pop("eda-dm") is Select.DENSITY
    assert selected.pop("pqd") is selected.pop("ptq4dm") is Select.NORMAL
    assert selected.pop("q-diffusion") is selected.pop("pcr") is Select.STRIDE
    assert set(selected.values()) == {Select.RANDOM}


def test_pcr_finds_tables_progressively_and_relaxes_the_last_steps():
    assert (PCR.tables, PCR.ranges, PCR.relax) == (Tables.PROGRESSIVE, Ranges.MIN_MAX, Relax.LAST)
    assert PCR.edges == FLOATING


def test_methods_without_training_have_no_iterations():
    assert not RTN.trains
    assert RTN.iterations == 0


def test_ptq4dm_is_its_latents_and_tables_with_pcrs_reconstruction():
    assert PTQ4DM.tables is Tables.SINGLE
    assert PTQ4DM.reconstruct is PCR.reconstruct


def test_serial_is_efficientdms():
    """The guided loss alone, a low-rank update, scales and zero-points; 8-bit first and last layer."""
    request = CalibrateRequest(method="serial")
    spec = spec_of(request, recipe_of(request), 12, ranked=True, pictures=None)
    assert spec.loss == LossSpec(output=0, sensitive=0, blocks=0, guided=1)
    assert (spec.train.what, spec.train.rank, spec.train.zero_points) == (Train.LOW_RANK, 32, True)
    assert spec.train.weight_rate == SERIAL.low_rank_rate
    assert spec.edges == "w8a8"
    unguided = spec_of(request, recipe_of(request), 12, ranked=True, pictures=None, each=1)
    assert unguided.loss == LossSpec(sensitive=0, blocks=0, guided=0)


def test_the_loss_of_another_method_can_be_asked_for():
    words = {"output_weight": 1, "guided_weight": 0, "sensitive_weight": 1, "block_weight": 1}
    request = CalibrateRequest(method="serial", train=Train.WEIGHTS_AND_STEPS, zero_points=False, **words)
    spec = spec_of(request, recipe_of(request), 12, ranked=True, pictures=None)
    assert spec.loss == LossSpec(output=1, sensitive=1, blocks=1, guided=0)
    assert (spec.train.what, spec.train.zero_points) == (Train.WEIGHTS_AND_STEPS, False)
    assert spec.train.weight_rate == SERIAL.weight_rate
    request = CalibrateRequest(method="serial", guided_weight=0)
    with pytest.raises(UsageProblem, match="--method serial: no loss has a weight"):
        spec_of(request, recipe_of(request), 12, ranked=True, pictures=None)


@pytest.mark.parametrize("method", ["pcr", "serial-to-parallel"])
def test_the_first_steps_of_sdxl_are_relaxed(method):
    request = CalibrateRequest(method=method, bits="w8a8", activations="per-step")
    found = {}
    for family in FAMILIES:
        recipe = on_family(recipe_of(request), family)
        found[family.name] = spec_of(request, recipe, 12, ranked=False, pictures=None).relax
    assert found.pop("Stable Diffusion XL") is Relax.FIRST
    assert found.pop("Stable Diffusion XL inpainting") is Relax.FIRST
    assert set(found.values()) == {Relax.LAST}
