"""Choices about numbers: of a request, or else of its method."""

import pytest
from pydantic import ValidationError

from sdquant_cli.errors import UsageProblem
from sdquant_cli.methods.resolve import recipe_of, spec_of
from sdquant_cli.options.requests import CalibrateRequest
from sdquant_cli.types import Activations, Relax


def resolved(**flags):
    request = CalibrateRequest(**flags)
    return spec_of(request, recipe_of(request), 12, ranked=True, pictures=None)


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


def test_the_first_and_the_last_layer_are_as_asked_for():
    assert resolved().edges == "w8a16"
    assert resolved(mixed=True).edges is None
    assert resolved(mixed=True, edges="w8a8").edges == "w8a8"
    assert resolved(edges="none").edges is None
    assert resolved(method="pcr").edges == "float"
    assert resolved(method="pcr", mixed=True).edges is None
    assert resolved(method="pcr", budget="4.5").edges == "w8a16"
    assert resolved(method="eda-dm").edges == "w8a8"
    with pytest.raises(UsageProblem, match="--edges float: --budget decides"):
        resolved(edges="float", budget="4.5")
    with pytest.raises(ValidationError, match="expected"):
        CalibrateRequest(edges="some")
