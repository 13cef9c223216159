"""A spec in words."""

import pytest

from sdquant_cli.methods.in_words import choices_in_words, losses_in_words
from sdquant_cli.methods.resolve import recipe_of, spec_of
from sdquant_cli.options.requests import CalibrateRequest


def spec(**fields):
    request = CalibrateRequest(**fields)
    return spec_of(request, recipe_of(request), 12, ranked=True, pictures=None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "L_out + L_sen + blocks"),
        ({"method": "serial"}, "guided"),
        ({"method": "eda-dm"}, "blocks + layers"),
        ({"method": "pcr"}, "blocks"),
        ({"method": "rtn"}, "none"),
    ],
)
def test_losses_that_have_a_weight_are_named(fields, words):
    assert losses_in_words(spec(**fields)) == words


def test_choices_are_those_that_hold():
    assert choices_in_words(spec(edges="float")) == [
        "all codes",
        "scales per token",
        "channels scaled",
        "ends in floating point",
        "losses: L_out + L_sen + blocks",
    ]
    assert choices_in_words(spec(method="serial")) == [
        "all codes",
        "per-step tables, mse",
        "ends at least w8a8",
        "losses: guided",
        "zero-points trained",
        "trains low-rank",
    ]
