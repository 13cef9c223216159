"""Which column holds the prompts."""

import pytest

from sdquant_cli.prompts.columns import candidates, choose
from sdquant_cli.prompts.entries import Unreadable


@pytest.mark.parametrize(
    ("names", "column", "positions"),
    [
        (["id", " Prompts ", "note"], None, [1]),
        (["TEXT", "caption"], None, [0, 1]),
        (["id", "title"], None, []),
        (["Text", "text"], "text", [1]),
        (["Text", "TEXT"], "text", [0, 1]),
        (["titles"], "title", []),
    ],
)
def test_candidates(names, column, positions):
    assert candidates(names, column) == positions


@pytest.mark.parametrize(
    ("names", "column", "says"),
    [
        (
            ["prompt", "Caption"],
            None,
            "2 fields that may hold the prompts: prompt, Caption; name one with --column",
        ),
        (["prompt", "prompt"], None, "2 fields .*: prompt, prompt; rename the field that is not meant"),
        (["id"], "title", r"no field title \(--column\), found id"),
        (["id"], None, "expected a field prompt, caption or text, found id; name one with --column"),
    ],
)
def test_no_candidate_or_several_are_refused(names, column, says):
    with pytest.raises(Unreadable, match=says):
        choose(names, column, "field")


def test_one_candidate_is_chosen():
    assert choose(["id", "prompt"], None) == 1
    assert choose(["id", "prompt"], "ID") == 0
