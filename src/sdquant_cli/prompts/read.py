"""Read a prompt file of any format: its first prompts, or a random sample of them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageProblem
from .entries import Entry, Unreadable
from .lines import read_plain
from .parquet import read_parquet
from .records import read_json, read_json_lines
from .tables import read_table

PROMPT_CHARACTERS = 100_000

_READERS: dict[str, Callable[[Path, str | None], Iterator[Entry]]] = {
    ".txt": read_plain,
    ".csv": read_table,
    ".tsv": read_table,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
    ".json": read_json,
}


@dataclass(frozen=True)
class PromptFile:
    """Prompts in file order, or in the order of a shuffle."""

    path: Path
    prompts: tuple[str, ...]
    blank: int
    duplicates: int


def read_prompts(
    path: Path,
    limit: int | None = None,
    *,
    column: str | None = None,
    shuffle: int | None = None,
    flag: str = "--prompts",
) -> PromptFile:
    """Return the first `limit` prompts of a file, shuffled before by the seed `shuffle` if there is one.

    Raises UsageProblem that names the flag, the file and the part that cannot be read.
    """
    try:
        prompts, blank = _collect(_entries(path, column), limit if shuffle is None else None)
        if not prompts:
            raise Unreadable("holds no prompt")
    except Unreadable as error:
        raise UsageProblem(f"{flag} {path}: {error}") from None
    if shuffle is not None:
        prompts = _shuffled(prompts, shuffle)[:limit]
    return PromptFile(path, tuple(prompts), blank, len(prompts) - len(set(prompts)))


def _entries(path: Path, column: str | None) -> Iterator[Entry]:
    if not path.exists():
        raise Unreadable("no such file")
    if path.is_dir():
        raise Unreadable("is a folder, expected a file")
    if not path.is_file():
        raise Unreadable("is a pipe, a socket or a device, expected a regular file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise Unreadable(f"expected one of {', '.join(_READERS)}, found {path.suffix or 'no suffix'!r}")
    return reader(path, column)


def _collect(entries: Iterable[Entry], limit: int | None) -> tuple[list[str], int]:
    """Return the first prompts, and how many blank ones stood between them."""
    prompts: list[str] = []
    blank = 0
    for entry in entries:
        prompt = entry.text.strip()
        if not prompt:
            blank += 1
            continue
        _check(prompt, entry.position)
        prompts.append(prompt)
        if len(prompts) == limit:
            break
    return prompts, blank


def _check(prompt: str, position: str) -> None:
    if len(prompt) > PROMPT_CHARACTERS:
        raise Unreadable(
            f"{position}: a prompt of {len(prompt):,} characters, expected at most {PROMPT_CHARACTERS:,}"
        )
    if "\0" in prompt:
        raise Unreadable(f"{position}: the prompt holds a NUL character")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        half = prompt[error.start].encode("unicode-escape").decode()
        raise Unreadable(
            f"{position}: {half} is half of a surrogate pair, and no character by itself"
        ) from None


def _shuffled(prompts: list[str], seed: int) -> list[str]:
    """Return the prompts by ascending sha256 of "sdquant/shuffle/<seed>/<index>", the same anywhere."""

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"sdquant/shuffle/{seed}/{index}".encode()).digest()

    return [prompts[index] for index in sorted(range(len(prompts)), key=rank)]
