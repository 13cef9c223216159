"""A text with its position in a file, and the error for what cannot be read: shared by all readers."""

from collections.abc import Sequence
from typing import NamedTuple

SHOWN_NAMES, SHOWN_CHARACTERS = 12, 40


class Unreadable(Exception):
    """Something in a file that cannot be read for sure; the message says where, and what helps."""


class Entry(NamedTuple):
    """A text as a file has it, perhaps blank."""

    position: str  # as in "line 3"
    text: str


def listing(names: Sequence[str]) -> str:
    """Names in one line, however many and long they are."""
    shown = [_shortened(name) for name in names[:SHOWN_NAMES]]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _shortened(name: str) -> str:
    text = name if name and name.isprintable() else repr(name)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
