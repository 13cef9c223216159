"""How names are listed in a message."""

from sdquant_cli.prompts.entries import SHOWN_CHARACTERS, SHOWN_NAMES, listing


def test_a_listing_is_one_line_of_bounded_length():
    assert listing(["id", "a star"]) == "id, a star"
    assert listing(["", "a\nb"]) == "'', 'a\\nb'"
    assert listing(["x" * 41]) == "x" * (SHOWN_CHARACTERS - 3) + "..."
    names = [str(i) for i in range(SHOWN_NAMES)]
    assert listing(names) == ", ".join(names)
    assert listing([*names, "a", "b"]) == ", ".join(names) + " and 2 more"
