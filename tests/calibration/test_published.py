"""Published methods: their choices as the papers and their scripts have them."""

import pytest

from sdquant_cli.calibration.recipe import Recipe
from sdquant_cli.calibration.recipes.eda_dm import RECIPE as EDA_DM
from sdquant_cli.calibration.recipes.parallel import RECIPE as PARALLEL
from sdquant_cli.calibration.recipes.pcr import RECIPE as PCR
from sdquant_cli.calibration.recipes.pqd import RECIPE as PQD
from sdquant_cli.calibration.recipes.ptq4dm import RECIPE as PTQ4DM
from sdquant_cli.calibration.recipes.published import METHODS
from sdquant_cli.calibration.recipes.q_diffusion import RECIPE as Q_DIFFUSION
from sdquant_cli.calibration.recipes.rtn import RECIPE as RTN
from sdquant_cli.calibration.recipes.serial import RECIPE as SERIAL
from sdquant_cli.calibration.recipes.serial_to_parallel import RECIPE as SERIAL_TO_PARALLEL
from sdquant_cli.calibration.sources import MixedLatents, NoisedPictures, TrajectoryBatches
from sdquant_cli.options.option import Option
from sdquant_cli.options.requests import CalibrateRequest
from sdquant_cli.types import Bits, Ranges, Relax, Select, Tables

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
    assert [name for name, recipe in METHODS.items() if not recipe.trains] == ["ptq4dm", "rtn"]


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
    assert list(reconstructing) == ["eda-dm", "pqd", "q-diffusion", "pcr"]
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
    assert PCR.edges == Bits(8, 16)


def test_methods_without_training_have_no_iterations():
    for recipe in (RTN, PTQ4DM):
        assert not recipe.trains
        assert recipe.iterations == 0
    assert PTQ4DM.tables is Tables.SINGLE
