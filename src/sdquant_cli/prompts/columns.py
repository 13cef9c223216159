"""The column of a table, or the field of a record, that holds the prompts."""

from collections.abc import Sequence

from .entries import Unreadable, listing

NAMES = ("prompt", "caption", "text")  # whatever the case, singular or plural


def candidates(names: Sequence[str], column: str | None) -> list[int]:
    """Return the positions that can be meant: of the column that the user names, or of a known name."""
    if column is None:
        return [at for at, name in enumerate(names) if _folded(name).removesuffix("s") in NAMES]
    exact = [at for at, name in enumerate(names) if name.strip() == column.strip()]
    return exact or [at for at, name in enumerate(names) if _folded(name) == _folded(column)]


def choose(names: Sequence[str], column: str | None, noun: str = "column") -> int:
    """Return the one position that is meant; raises Unreadable where it is none or several."""
    positions = candidates(names, column)
    if len(positions) == 1:
        return positions[0]
    if positions:
        rivals = [names[at] for at in positions]
        helps = "name one with --column" if len(set(rivals)) > 1 else f"rename the {noun} that is not meant"
        raise Unreadable(f"has {len(rivals)} {noun}s that can be meant: {listing(rivals)}; {helps}")
    if column is not None:
        raise Unreadable(f"has no {noun} {listing([column])} (--column), found {listing(names)}")
    raise Unreadable(
        f"expected a {noun} {', '.join(NAMES[:-1])} or {NAMES[-1]}, found {listing(names)}; "
        f"name one with --column"
    )


def _folded(name: str) -> str:
    return name.strip().casefold()
