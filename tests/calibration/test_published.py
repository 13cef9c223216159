"""Published methods: their choices as the papers and their scripts have them."""

import pytest

from sdquant_cli.calibration.recipes import (
    eda_dm,
    parallel,
    pcr,
    pqd,
    ptq4dm,
    q_diffusion,
    rtn,
    serial,
    serial_to_parallel,
)
from sdquant_cli.calibration.recipes.published import METHODS
from sdquant_cli.calibration.sources import MixedLatents, NoisedPictures, TrajectoryBatches
from sdquant_cli.types import Bits, Ranges, Relax, Select, Tables

FILES = {
    "serial-to-parallel": serial_to_parallel,
    "serial": serial,
    "parallel": parallel,
    "eda-dm": eda_dm,
    "pqd": pqd,
    "q-diffusion": q_diffusion,
    "ptq4dm": ptq4dm,
    "pcr": pcr,
    "rtn": rtn,
}


def test_each_method_is_one_file_that_cites_its_source():
    assert list(METHODS) == list(FILES)
    for name, module in FILES.items():
        assert METHODS[name] is module.RECIPE
        assert module.RECIPE.cites


def test_networks_trained_as_a_whole_differ_in_their_batches():
    assert serial_to_parallel.RECIPE.source is MixedLatents
    assert serial.RECIPE.source is TrajectoryBatches
    assert parallel.RECIPE.source is NoisedPictures
    assert [name for name, recipe in METHODS.items() if recipe.needs_pictures] == ["parallel"]
    assert [name for name, recipe in METHODS.items() if recipe.stored_items] == ["serial-to-parallel"]


@pytest.mark.parametrize(
    ("module", "drop", "mixed_inputs", "joint"),
    [(eda_dm, 0.5, 0.5, True), (pqd, 0.5, 0.5, True), (q_diffusion, 1.0, 0.0, False), (pcr, 1.0, 1.0, False)],
)
def test_blocks_are_reconstructed_as_published(module, drop, mixed_inputs, joint):
    """QDrop's halves with scales learned jointly; AdaRound on unquantized activations."""
    spec = module.RECIPE.reconstruct
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
    recipe = pcr.RECIPE
    assert (recipe.tables, recipe.ranges, recipe.relax) == (Tables.PROGRESSIVE, Ranges.MIN_MAX, Relax.LAST)
    assert recipe.edges == Bits(8, 16)


def test_methods_without_training_have_no_iterations():
    for module in (rtn, ptq4dm):
        assert not module.RECIPE.trains
        assert module.RECIPE.iterations == 0
    assert ptq4dm.RECIPE.tables is Tables.SINGLE
