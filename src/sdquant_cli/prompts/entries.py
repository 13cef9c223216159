"""A text with its position in a file, and the error for a file that cannot be read, for all readers."""

from collections.abc import Sequence
from typing import NamedTuple

SHOWN_NAMES, SHOWN_CHARACTERS = 12, 40


class Unreadable(Exception):
    """A part of a file that cannot be read unambiguously; the message names its position and the remedy."""


class Entry(NamedTuple):
    """A text as it is in a file; it may be blank."""

    position: str  # as in "line 3"
    text: str


def listing(names: Sequence[str]) -> str:
    """Return names as one line of bounded length."""
    shown = ", ".join(map(_shortened, names[:SHOWN_NAMES]))
    rest = len(names) - SHOWN_NAMES
    return f"{shown} and {rest} more" if rest > 0 else shown


def _shortened(name: str) -> str:
    text = name if name and name.isprintable() else repr(name)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
