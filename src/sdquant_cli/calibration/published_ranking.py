"""A ranking of layers that a file lists, such as one that a paper publishes.

One layer a line, most sensitive first. A line `...` stands for all layers that are not named, since papers
print the two ends of a ranking and the bits of layers depend on these alone. Blank lines and lines that
begin with `#` say nothing.
"""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageProblem
from ..paths import check_regular
from ..quant.allocate import extremes

FLAG = "--ranking"
REST = "..."  # the layers that are not named
LARGEST = 1_000_000  # bytes


def read_ranking(path: Path, layers: Sequence[str]) -> tuple[str, ...]:
    """Return all layers of a model, most sensitive first, as a file lists them.

    Raises UsageProblem that names the file, the line, what was found there and what to do.
    """
    lines = _lines(path)
    if not lines:
        raise UsageProblem(f"{FLAG} {path}: names no layer; write one on each line, most sensitive first")
    _check_lines(path, lines, layers)
    listed = list(lines)
    if REST not in lines:
        _check_complete(path, listed, layers)
        return tuple(listed)
    split = listed.index(REST)
    first, last = listed[:split], listed[split + 1 :]
    _check_ends(path, {"before": len(first), "after": len(last)}, layers)
    rest = [name for name in layers if name not in lines]
    return (*first, *rest, *last)


def digest(ranking: Sequence[str]) -> str:
    """Return the sha256 over the layers in order; how the file abbreviates them makes no difference."""
    return hashlib.sha256("\n".join(ranking).encode()).hexdigest()


def _lines(path: Path) -> dict[str, int]:
    """Return what the lines of a file name, in order, each with its line number."""
    check_regular(path, FLAG)
    try:
        if path.stat().st_size > LARGEST:
            raise UsageProblem(f"{FLAG} {path}: is larger than {LARGEST:,} bytes, expected one layer a line")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageProblem(f"{FLAG} {path}: is not text in UTF-8; expected one layer a line") from None
    except OSError as error:
        raise UsageProblem(f"{FLAG} {path}: {error.strerror}") from None
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in lines:
            raise UsageProblem(
                f"{FLAG} {path}: line {number}: {name[:100]!r} is on line {lines[name]} already; "
                f"remove one of them"
            )
        lines[name] = number
    return lines


def _check_lines(path: Path, lines: dict[str, int], layers: Sequence[str]) -> None:
    """Raise UsageProblem for the first line that names no layer of the model."""
    known = {*layers, REST}
    for name, number in lines.items():
        if name not in known:
            similar = difflib.get_close_matches(name[:200], layers, 1)
            remedy = f"did you mean {similar[0]!r}?" if similar else f"its layers are named as {layers[0]!r}"
            raise UsageProblem(
                f"{FLAG} {path}: line {number}: {name[:100]!r} is no layer of the model that is quantized; "
                f"{remedy}"
            )


def _check_complete(path: Path, listed: Sequence[str], layers: Sequence[str]) -> None:
    missing = [name for name in layers if name not in set(listed)]
    if missing:
        raise UsageProblem(
            f"{FLAG} {path}: {len(missing)} of {len(layers)} layers are missing, such as {missing[0]!r}; "
            f"add them, or a line {REST} where they belong"
        )


def _check_ends(path: Path, counts: dict[str, int], layers: Sequence[str]) -> None:
    """Raise UsageProblem if the layers that are not named would be among those with other bits."""
    needed = len(extremes(layers)[0])
    for where, count in counts.items():
        if count < needed:
            raise UsageProblem(
                f"{FLAG} {path}: {where} {REST}: expected at least {needed} layers, 5% of {len(layers)}, "
                f"found {count}; add the others"
            )
