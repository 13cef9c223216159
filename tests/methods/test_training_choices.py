"""Choices about training: of a request, or else of its method."""

import pytest

from sdquant_cli.methods.published import METHODS
from sdquant_cli.methods.resolve import recipe_of, spec_of
from sdquant_cli.options.requests import CalibrateRequest
from sdquant_cli.types import Train


def resolved(**flags):
    request = CalibrateRequest(**flags)
    return spec_of(request, recipe_of(request), 12, ranked=True, pictures=None)


def test_rates_are_the_recipes_unless_the_request_names_them():
    for method in ("serial", "parallel"):
        recipe = METHODS[method]
        request = CalibrateRequest(method=method, step_rate=0.5, train=Train.WEIGHTS_AND_STEPS)
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


def test_with_a_budget_each_layer_moves_by_its_own_grid():
    request = CalibrateRequest(bits="w8a8", budget="5")
    train = spec_of(request, recipe_of(request), 12, ranked=True, pictures=None).train
    assert (train.weight_rate, train.rate_by_layer) == (recipe_of(request).weight_rate, True)


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
