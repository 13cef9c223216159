"""The column of a table, or the field of a record, that holds the prompts."""

from collections.abc import Callable, Sequence

from .entries import Unreadable, listing

NAMES = ("prompt", "caption", "text")  # in any case, singular or plural


def candidates(names: Sequence[str], column: str | None) -> list[int]:
    """Return the positions of the column that the user names, or of the known names."""
    if column is None:
        return _positions(names, lambda name: _folded(name).removesuffix("s") in NAMES)
    exact = _positions(names, lambda name: name.strip() == column.strip())
    return exact or _positions(names, lambda name: _folded(name) == _folded(column))


def choose(names: Sequence[str], column: str | None, noun: str = "column") -> int:
    """Return the position of the prompts' column; raise Unreadable unless there is exactly one."""
    positions = candidates(names, column)
    if len(positions) == 1:
        return positions[0]
    if positions:
        rivals = [names[position] for position in positions]
        hint = "name one with --column" if len(set(rivals)) > 1 else f"rename the {noun} that is not meant"
        raise Unreadable(f"has {len(rivals)} {noun}s that may hold the prompts: {listing(rivals)}; {hint}")
    if column is not None:
        raise Unreadable(f"has no {noun} {listing([column])} (--column), found {listing(names)}")
    raise Unreadable(
        f"expected a {noun} {', '.join(NAMES[:-1])} or {NAMES[-1]}, found {listing(names)}; "
        f"name one with --column"
    )


def _positions(names: Sequence[str], matches: Callable[[str], bool]) -> list[int]:
    return [position for position, name in enumerate(names) if matches(name)]


def _folded(name: str) -> str:
    return name.strip().casefold()
