"""Requests take finite, bounded numbers, whichever field they are for."""

import types
import typing
from pathlib import Path

import pytest
from pydantic import ValidationError

from sdquant_cli.options import requests
from sdquant_cli.options.requests import Fields, first_problem

REQUIRED = {"prompts": Path("x"), "output": Path("y")}
ARGUMENTS = {"QuantizeRequest": {"model": "z"}}


def _takes(annotation, kind) -> bool:
    """Whether an annotation allows values of a type."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_takes(part, kind) for part in typing.get_args(annotation))
    return annotation is kind


def fields_of(kind) -> list:
    """Every field of every request that takes a type."""
    classes = [c for c in vars(requests).values() if isinstance(c, type) and issubclass(c, Fields)]
    return [
        pytest.param(cls, name, id=f"{cls.__name__}.{name}")
        for cls in classes
        for name, annotation in typing.get_type_hints(cls).items()
        if name in cls.model_fields and _takes(annotation, kind)
    ]


def refused(cls, name, value) -> tuple[list[str], str, str]:
    required = {field: path for field, path in REQUIRED.items() if field in cls.model_fields}
    with pytest.raises(ValidationError) as caught:
        cls(**{**required, **ARGUMENTS.get(cls.__name__, {}), name: value})
    return first_problem(caught.value)


def test_there_are_such_fields():
    assert len(fields_of(float)) >= 20
    assert len(fields_of(int)) >= 30
    assert len(fields_of(bool)) >= 9


@pytest.mark.parametrize(("cls", "name"), fields_of(float))
def test_a_float_is_finite_and_bounded(cls, name):
    for value in (float("inf"), -float("inf"), float("nan"), 1e38, -1e38, 10**5000, True, "１e38", [1.0]):
        names, shown, message = refused(cls, name, value)
        assert names == [name]
        assert len(shown) < 50
        assert message


@pytest.mark.parametrize(("cls", "name"), fields_of(int))
def test_an_integer_is_bounded_and_no_switch(cls, name):
    for value in (10**5000, -(10**5000), 2**63, True, 1.0, "1", float("nan")):
        names, shown, message = refused(cls, name, value)
        assert names == [name]
        assert len(shown) < 50
        assert message


@pytest.mark.parametrize(("cls", "name"), fields_of(bool))
def test_a_switch_is_on_or_off(cls, name):
    for value in (1, 0.0, "yes", "true", []):
        assert refused(cls, name, value)[0] == [name]


def test_a_list_names_its_field_and_the_entry():
    assert refused(requests.EvaluateRequest, "gate", ("psnr>=25", "psnr>=1_0"))[:2] == (["gate"], "psnr>=1_0")
    assert refused(requests.LeaderboardRequest, "bits", ("w4a8", "w４a8"))[:2] == (["bits"], "w４a8")
