"""Lines of UTF-8 text, each of bounded length."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .entries import Entry, Unreadable

LINE_CHARACTERS = 1 << 24  # a record may have other fields than its prompt
DOCUMENT_BYTES = 1 << 29
_UTF16_MARKS = ("\udcff\udcfe", "\udcfe\udcff")  # as `surrogateescape` decodes them


def read_lines(path: Path, longest: int = LINE_CHARACTERS) -> Iterator[str]:
    """Yield each line with its `\\n`, `\\r\\n` or `\\r`; raise Unreadable at an invalid one."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        number = 1
        while line := file.readline(longest + 1):
            if number == 1:
                line = line.removeprefix("\ufeff")
            _check(line, number, longest)
            yield line
            number += 1


def _check(line: str, number: int, longest: int) -> None:
    if number == 1 and line.startswith(_UTF16_MARKS):
        raise Unreadable("line 1 is UTF-16; convert the file with `iconv -f UTF-16 -t UTF-8`")
    if "\0" in line:
        raise Unreadable(
            f"line {number} is binary, expected UTF-8 text; if it is UTF-16, `iconv -f UTF-16 -t UTF-8`"
        )
    if not line.isascii():
        _check_utf8(line, number)
    if len(line) > longest:
        raise Unreadable(f"line {number} is longer than {longest:,} characters")


def _check_utf8(line: str, number: int) -> None:
    try:
        line.encode()
    except UnicodeEncodeError:
        raise Unreadable(
            f"line {number} is not UTF-8; convert the file, as in `iconv -f WINDOWS-1252 -t UTF-8`"
        ) from None


def read_document(path: Path) -> str:
    """Return the whole text of a file."""
    size = path.stat().st_size
    if size > DOCUMENT_BYTES:
        raise Unreadable(f"is one document of {size:,} bytes, at most {DOCUMENT_BYTES:,}; write it as .jsonl")
    return "".join(read_lines(path, longest=DOCUMENT_BYTES))


def read_plain(path: Path, column: str | None) -> Iterator[Entry]:
    """Yield the text of each line."""
    if column is not None:
        raise Unreadable(f"--column {column}: not supported for .txt files, which hold one prompt per line")
    for number, line in enumerate(read_lines(path), 1):
        yield Entry(f"line {number}", line)


def fit_lines(prompts: Sequence[str]) -> bool:
    """Return whether a .txt file, one prompt per line, can hold these prompts unchanged."""
    if prompts and prompts[0].startswith("\ufeff"):
        return False
    return not any(re.search(r"[\r\n\0]", prompt) for prompt in prompts)
