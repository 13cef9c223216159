"""Descriptions of options: order, spelling, values, and words of a command line."""

from typing import Annotated

import pytest
from pydantic import BaseModel

from sdquant_cli.options.option import Flag, Needs, Option, Panel, by_panel, flags_of


class Example(BaseModel):
    plain: int = 3
    batch_size: Annotated[int, Option("Items.", Panel.RESOURCES, "A.x")] = 3
    name: Annotated[str, Option("Name.", argument=True)]
    hidden: Annotated[str | None, Option("Not here.")] = None


def test_flags_are_the_described_fields_with_their_defaults():
    flags = flags_of(Example.model_fields, without=frozenset({"hidden"}))
    assert [(flag.name, flag.default, flag.required) for flag in flags] == [
        ("batch_size", 3, False),
        ("name", None, True),
    ]
    assert [flag.spelling for flag in flags] == ["--batch-size", "NAME"]
    assert flags[0].option.specs == ("A.x",)
    assert flags[1].option.specs == ()


def test_flags_are_ordered_by_panel_and_required_ones_come_first():
    everyday = Flag("a", int, Option("A."), default=1)
    needed = Flag("b", int, Option("B."), required=True)
    output = Flag("c", int, Option("C.", Panel.OUTPUT), required=True)
    assert by_panel([output, everyday, needed]) == [needed, everyday, output]


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        (Flag("seed", int, Option("")), 0, ["--seed", "0"]),
        (Flag("seed", int, Option("")), None, []),
        (Flag("mixed", bool, Option(""), default=False), True, ["--mixed"]),
        (Flag("mixed", bool, Option(""), default=False), False, []),
        (Flag("split", bool, Option("")), False, ["--no-split"]),
        (Flag("relax", str, Option("", unset="none")), None, ["--relax", "none"]),
        (Flag("relax", str, Option("", unset="none")), "last", ["--relax", "last"]),
    ],
)
def test_words_give_a_value_on_the_command_line(flag, value, words):
    assert flag.words(value) == words


@pytest.mark.parametrize(
    ("default", "commas", "parsed", "value"),
    [
        ((), False, None, ()),
        ((), False, ["a", "b"], ("a", "b")),
        ((), True, None, ()),
        ((), True, "a, b", ("a", "b")),
        (("all",), True, "", ("",)),
        (None, False, "text", "text"),
    ],
)
def test_a_value_is_what_the_request_takes(default, commas, parsed, value):
    assert Flag("x", str, Option("", commas=commas), default=default).value(parsed) == value


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (bool, bool),
        (bool | None, bool),
        (Annotated[bool, "bound"] | None, bool),
        (Annotated[int, "bound"], int),
        (str | None, str),
    ],
)
def test_the_type_of_a_value_is_without_bounds_and_none(annotation, kind):
    flag = Flag("x", annotation, Option(""))
    assert flag.type is kind
    assert flag.is_switch == (kind is bool)


def test_what_methods_must_do_reads_as_a_sentence():
    assert f"Only for {Needs.TRAINING}." == "Only for methods that train."
