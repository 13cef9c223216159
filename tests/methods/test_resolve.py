"""Resolution of a request: what the method decides, and which options it refuses."""

import re

import pytest

from sdquant_cli.errors import UsageProblem
from sdquant_cli.methods.resolve import recipe_of, spec_of
from sdquant_cli.options.requests import CalibrateRequest
from sdquant_cli.types import Train


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
