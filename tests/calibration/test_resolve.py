"""Resolution of a request: what the method decides, and which options it refuses."""

import re

import pytest
from pydantic import ValidationError

from sdquant_cli.calibration.recipes.published import METHODS
from sdquant_cli.calibration.resolve import recipe_of, spec_of
from sdquant_cli.errors import UsageProblem
from sdquant_cli.options.requests import CalibrateRequest
from sdquant_cli.types import Activations, Relax, Train


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "magic"}, "--method magic: expected one of serial-to-parallel, serial"),
        (
            {"method": "rtn", "weight_rate": 1e-3},
            "--weight-rate: is not supported by --method rtn (supported by: serial",
        ),
        ({"method": "rtn", "iterations": 5}, "--iterations"),
        (
            {"images": "x"},
            "--images: is not supported by --method serial-to-parallel (supported by: parallel",
        ),
        ({"rank": 4}, "--rank: has no effect with --train weights"),
        ({"train": "steps", "freezing": 0.1}, "--freezing: has no effect with --train steps"),
    ],
)
def test_an_option_without_meaning_is_refused(fields, message):
    with pytest.raises(UsageProblem, match=re.escape(message)):
        recipe_of(CalibrateRequest(**fields))


def test_a_spec_says_what_was_chosen_and_rtn_trains_nothing():
    request = CalibrateRequest(train=Train.LOW_RANK)
    spec = spec_of(request, recipe_of(request), 12, ranked=False, pictures=None)
    assert (spec.train.what, spec.train.rank, spec.iterations) == (Train.LOW_RANK, 32, 400)
    assert spec.loss.sensitive == 0  # no ranking, no L_sen
    request = CalibrateRequest(method="rtn")
    spec = spec_of(request, recipe_of(request), 12, ranked=True, pictures=None)
    assert (spec.train, spec.loss, spec.iterations) == (None, None, 0)


def test_rates_are_the_recipes_unless_the_request_names_them():
    for method in ("serial", "parallel"):
        recipe, request = METHODS[method], CalibrateRequest(method=method, step_rate=0.5)
        train = spec_of(request, recipe, 12, ranked=False, pictures=None).train
        assert (train.weight_rate, train.step_rate) == (recipe.weight_rate, 0.5)
    assert METHODS["serial"].weight_rate < METHODS["parallel"].weight_rate


@pytest.mark.parametrize(
    ("bits", "share"), [("w4a8", 1), ("w3a8", 1), ("w4a4", 1), ("w6a8", 7 / 31), ("w8a8", 7 / 127)]
)
def test_weights_of_a_finer_grid_move_by_as_much_less(bits, share):
    request = CalibrateRequest(bits=bits)
    recipe = recipe_of(request)
    train = spec_of(request, recipe, 12, ranked=False, pictures=None).train
    assert train.weight_rate == recipe.weight_rate * share
    request = CalibrateRequest(bits=bits, weight_rate=0.5)
    assert spec_of(request, recipe, 12, ranked=False, pictures=None).train.weight_rate == 0.5


@pytest.mark.parametrize(
    ("flags", "smoothing"),
    [
        ({}, True),
        ({"smoothing": False}, False),
        ({"activations": "per-step"}, None),
        ({"activations": "per-step", "smoothing": True}, True),
        ({"method": "rtn"}, None),
        ({"method": "rtn", "activations": "token"}, None),
    ],
)
def test_channels_are_scaled_by_default_where_scales_are_found_at_run_time(flags, smoothing):
    request = CalibrateRequest(**flags)
    assert spec_of(request, recipe_of(request), 12, ranked=True, pictures=None).smoothing is smoothing


def test_with_a_budget_each_layer_moves_by_its_own_grid():
    request = CalibrateRequest(bits="w8a8", budget="5")
    train = spec_of(request, recipe_of(request), 12, ranked=True, pictures=None).train
    assert (train.weight_rate, train.rate_by_layer) == (recipe_of(request).weight_rate, True)


def test_the_default_relaxes_the_last_steps_where_steps_have_rows():
    def relaxed(**flags):
        request = CalibrateRequest(**flags)
        return spec_of(request, recipe_of(request), 12, ranked=False, pictures=None).relax

    assert relaxed(activations="per-step") is relaxed(method="pcr") is Relax.LAST
    assert relaxed(relax="first") is Relax.FIRST
    for without in ({}, {"relax": "none"}, {"tables": "single"}, {"method": "rtn"}):
        assert relaxed(**without) is None
    assert relaxed(bits="w4a4", activations="per-step") is None
    assert relaxed(bits="w4a4", relax="last") is Relax.LAST


def test_scales_are_found_at_run_time_unless_an_option_of_tables_is_given():
    def spec(**flags):
        request = CalibrateRequest(**flags)
        return spec_of(request, recipe_of(request), 12, ranked=False, pictures=None)

    for flags in ({}, {"relax": "none"}, {"method": "rtn", "activations": "token"}):
        resolved = spec(**flags)
        assert (resolved.activations, resolved.tables, resolved.ranges) == (Activations.TOKEN, None, None)
    for flags in ({"tables": "single"}, {"ranges": "mse"}, {"relax": "last"}, {"method": "rtn"}):
        resolved = spec(**flags)
        assert resolved.activations is None
        assert None not in (resolved.tables, resolved.ranges)


@pytest.mark.parametrize("flags", [{"tables": "single"}, {"ranges": "min-max"}, {"relax": "last"}])
def test_an_option_of_tables_is_refused_where_there_are_none(flags):
    name, value = next(iter(flags.items()))
    request = CalibrateRequest(activations="token", **flags)
    with pytest.raises(UsageProblem, match=f"--{name} {value}: has no effect with --activations token"):
        recipe_of(request)


@pytest.mark.parametrize(
    ("fields", "iterations"),
    [
        ({}, 100),  # 24 items, forward, backward as two, the teacher's
        ({"batch_size": 6}, 200),
        ({"method": "eda-dm"}, 600),  # 4 items, and the teacher's layers
        ({"method": "q-diffusion"}, 320),  # 8 items, and a quarter of the iterations again
        ({"method": "pqd"}, 100),  # 32 items, the teacher's answers are there
    ],
)
def test_iterations_follow_from_what_they_may_cost(fields, iterations):
    request = CalibrateRequest(forwards=9600, **fields)
    recipe = recipe_of(request)
    assert spec_of(request, recipe, 12, ranked=False, pictures=None).iterations == iterations
    with pytest.raises(UsageProblem, match="replaces --iterations"):
        recipe_of(CalibrateRequest(forwards=9600, iterations=5, **fields))


def resolved(**flags):
    request = CalibrateRequest(**flags)
    return spec_of(request, recipe_of(request), 12, ranked=True, pictures=None)


def test_the_first_and_the_last_layer_are_as_asked_for():
    assert resolved().edges == "w8a16"
    assert resolved(mixed=True).edges is None
    assert resolved(mixed=True, edges="w8a8").edges == "w8a8"
    assert resolved(edges="none").edges is None
    assert resolved(bits="w8a8").edges == "float"
    assert resolved(bits="w8a8", mixed=True).edges is None
    assert resolved(bits="w8a8", budget="4.5").edges == "w8a16"
    assert resolved(bits="w8a8", method="eda-dm").edges == "w8a8"
    with pytest.raises(UsageProblem, match="--edges float: --budget decides"):
        resolved(edges="float", budget="4.5")
    with pytest.raises(ValidationError, match="expected"):
        CalibrateRequest(edges="some")


@pytest.mark.parametrize(
    ("flags", "rate"),
    [
        ({"method": "pcr"}, 5e-3),
        ({"method": "pcr", "iterations": 250}, 2e-2),
        ({"method": "pcr", "iterations": 4000}, 5e-3),
        ({"method": "pcr", "iterations": 10}, 0.1),
        ({"method": "pcr", "iterations": 250, "weight_rate": 1e-3}, 1e-3),
        ({"method": "eda-dm"}, 3e-2),
        ({"method": "eda-dm", "bits": "w8a8"}, 5e-4),
        ({"method": "eda-dm", "bits": "w8a8", "iterations": 500}, 1e-3),
    ],
)
def test_roundings_move_as_far_in_fewer_iterations(flags, rate):
    assert resolved(**flags).reconstruct.weight_rate == pytest.approx(rate)


def test_a_budget_in_forwards_has_the_rate_of_the_iterations_that_it_buys():
    bought = resolved(method="pcr", forwards=5e4)
    assert bought.reconstruct.weight_rate == pytest.approx(5e-3 * 1000 / bought.iterations)


def test_the_parallel_pipeline_has_the_losses_that_it_was_published_with():
    assert resolved(method="parallel").loss.blocks == 1
