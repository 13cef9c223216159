"""Read tables of text: fields between commas, semicolons, tabs or pipes, by the rules of the package."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .columns import candidates, choose
from .entries import Entry, Unreadable, listing
from .lines import read_lines

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
TAB = "\t"
OF_SUFFIX = {".csv": ",", ".tsv": TAB}
QUOTE = '"'


class Row(NamedTuple):
    """A row, with the number of its first line."""

    line: int
    fields: list[str]
    raw: str

    @property
    def blank(self) -> bool:
        """Whether the row has only white space."""
        return not self.raw.strip()


class Header(NamedTuple):
    """The names that a separator makes of a file's first line."""

    separator: str
    names: list[str]


class Text(NamedTuple):
    """Lines from a number on."""

    start: int
    lines: Iterable[str]


def read_table(path: Path, column: str | None) -> Iterator[Entry]:
    """Yield the text of each row."""
    usual = OF_SUFFIX[path.suffix.lower()]
    lines = read_lines(path)
    number, first = 1, next(lines, "")
    while first and not first.strip():
        number, first = number + 1, next(lines, "")
    if not first:
        return iter(())
    header = _find_header(first, usual, column)
    if header is None:
        return _without_header(Text(number, itertools.chain([first], lines)), usual, column)
    position = choose(header.names, column)
    body = Text(number + 1, lines)
    rows = _rows(body, header.separator, len(header.names), quotes=first.startswith(QUOTE))
    if len(header.names) == 1:
        return _whole_lines(rows, header.separator)
    return _column(rows, header, position)


# ------------------------------------------------------------------------------------- headers


def _find_header(line: str, usual: str, column: str | None) -> Header | None:
    """Return the header in a first line, if it is one; raise Unreadable if two separators make one of it."""
    headers = _divisions(line, usual)
    fitting = _with_prompts(headers, column)
    if len(fitting) > 1:
        ways = " and by ".join(SEPARATORS[header.separator] for header in fitting)
        raise Unreadable(f"the first line is a header by {ways}; write the file with one separator")
    if fitting:
        return fitting[0]
    if column is not None:
        _check_number(column, headers)
    return None


def _divisions(line: str, usual: str) -> list[Header]:
    """Return the names that each separator makes of a line; of one name, those of the usual separator."""
    headers = []
    for separator in SEPARATORS:
        names = _names(line, separator)
        if len(names) > 1 or separator == usual:
            headers.append(Header(separator, names))
    return headers


def _with_prompts(headers: Iterable[Header], column: str | None) -> list[Header]:
    return [header for header in headers if candidates(header.names, column)]


def _check_number(column: str, headers: Sequence[Header]) -> None:
    """Raise Unreadable unless `--column` is a number and the first line is no header."""
    names = max((header.names for header in headers), key=len)
    if not column.isdecimal():
        choose(names, column)
    if _with_prompts(headers, None):
        raise Unreadable(f"--column {column}: the first line is a header; name a column of {listing(names)}")


def _names(line: str, separator: str) -> list[str]:
    try:
        return list(map(str.strip, next(csv.reader([line], delimiter=separator, strict=True))))
    except csv.Error:
        return []


# ---------------------------------------------------------------------------------------- rows


def _rows(text: Text, separator: str, width: int | None = None, *, quotes: bool = False) -> Iterable[Row]:
    """Divide lines into rows; `quotes` says that the file is known to quote fields."""
    if separator != TAB:
        return _quoted_rows(text, separator)
    return _tab_rows(Text(text.start, list(text.lines)), width, quotes=quotes)


def _quoted_rows(text: Text, separator: str) -> Iterator[Row]:
    """Yield rows whose fields may be in quotation marks (RFC 4180)."""
    consumed: list[str] = []

    def feed() -> Iterator[str]:
        for line in text.lines:
            consumed.append(line)
            yield line

    reader = csv.reader(feed(), delimiter=separator, strict=True)
    line = text.start
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise Unreadable(
                f"line {line}: {error}; quote the field as a whole and double the quotation marks within, "
                f"or write the prompts as .txt or .jsonl"
            ) from None
        yield Row(line, fields, "".join(consumed).rstrip("\r\n"))
        line += len(consumed)
        consumed.clear()


def _plain_rows(text: Text, separator: str) -> Iterator[Row]:
    """Yield a row for each line, where quotation marks are text."""
    for number, line in enumerate(text.lines, text.start):
        raw = line.rstrip("\r\n")
        yield Row(number, raw.split(separator) if raw else [], raw)


def _tab_rows(text: Text, width: int | None, *, quotes: bool) -> list[Row]:
    """Read a table with and without quoted fields, and return the only reading that is possible."""
    plain = list(_plain_rows(text, TAB))
    try:
        quoted = list(_quoted_rows(text, TAB))
    except Unreadable:
        return plain
    line = _first_difference(plain, quoted)
    if line is None:
        return plain
    if _even(quoted, width) != _even(plain, width):
        return quoted if _even(quoted, width) else plain
    if quotes or (len(quoted) == len(plain) and any(map(_doubles, plain))):
        return quoted
    raise Unreadable(
        f"line {line}: the quotation marks around a field may be part of it or not; "
        f"write the file as .csv or .jsonl"
    )


def _first_difference(plain: Sequence[Row], quoted: Sequence[Row]) -> int | None:
    """Return the line where two readings of a table begin to differ; None if they are equal."""
    for one, other in itertools.zip_longest(plain, quoted):
        if one is None or other is None:
            return (one or other).line
        if one.fields != other.fields:
            return one.line
    return None


def _even(rows: Iterable[Row], width: int | None) -> bool:
    """Return whether all rows have the same number of fields, that of the header if there is one."""
    widths = {len(row.fields) for row in rows if not row.blank}
    return len(widths) <= 1 if width is None else widths <= {width}


def _doubles(row: Row) -> bool:
    """Return whether a field is in quotation marks and all marks within it are doubled."""
    for field in row.fields:
        if len(field) > 1 and field[0] == field[-1] == QUOTE:
            inner = field[1:-1]
            if QUOTE * 2 in inner and QUOTE not in inner.replace(QUOTE * 2, ""):
                return True
    return False


# --------------------------------------------------------------------------------------- texts


def _column(rows: Iterable[Row], header: Header, position: int) -> Iterator[Entry]:
    """Yield one field of each row; raise Unreadable if a row has more or fewer fields than the header."""
    for row in rows:
        if row.blank:
            yield Entry(f"line {row.line}", "")
            continue
        if len(row.fields) != len(header.names):
            raise Unreadable(
                f"line {row.line} has {len(row.fields)} fields, the header has {len(header.names)}; "
                f"quote fields that hold a {SEPARATORS[header.separator]} or a line break"
            )
        yield Entry(f"line {row.line}", _field(row, position, header.separator))


def _field(row: Row, position: int, separator: str) -> str:
    text = row.fields[position]
    if separator != TAB and text[:1].isspace() and text.lstrip().startswith(QUOTE):
        raise Unreadable(f"line {row.line}: white space before a quotation mark; quote without it")
    return text


def _whole_lines(rows: Iterable[Row], separator: str) -> Iterator[Entry]:
    """Yield each line, without quotation marks where it is one quoted field."""
    for row in rows:
        if len(row.fields) > 1 and _quotes(row.raw, separator):
            raise Unreadable(
                f"line {row.line} is quoted in part, expected one prompt; quote it as a whole and double the "
                f"quotation marks within"
            )
        yield Entry(f"line {row.line}", row.raw if len(row.fields) > 1 else "".join(row.fields))


def _quotes(raw: str, separator: str) -> bool:
    return raw.startswith(QUOTE) or separator + QUOTE in raw


def _without_header(text: Text, usual: str, column: str | None) -> Iterator[Entry]:
    text = Text(text.start, list(text.lines))
    if column is not None:
        return _numbered(text, column)
    rows = list(_rows(text, usual))
    lines = [row for row in rows if not row.blank]
    for separator, name in SEPARATORS.items():
        if all(_holds(row, separator) for row in lines):
            fields = _names(rows[0].raw, separator) or rows[0].raw.split(separator)
            raise Unreadable(
                f"the first line names no column prompt, caption or text, and all lines hold a {name}; "
                f"take a column with --column 1 to {len(fields)}, or of a header by its name: "
                f"{listing(fields)}; if each line is a prompt, name the file .txt"
            )
    return _whole_lines(rows, usual)


def _holds(row: Row, separator: str) -> bool:
    one_quoted_field = len(row.fields) == 1 and row.raw.startswith(QUOTE)
    return separator in row.raw and not one_quoted_field


def _numbered(text: Text, number: str) -> Iterator[Entry]:
    """Yield a column by its number, if exactly one separator divides all lines evenly."""
    tables = {}
    for separator, name in SEPARATORS.items():
        if rows := _even_rows(text, separator):
            tables[separator, name] = rows
    if len(tables) != 1:
        ways = " and ".join(name for _, name in tables) or "no separator"
        raise Unreadable(
            f"--column {number}: {ways} can divide all lines into as many fields; "
            f"write a header line, and quote fields that hold the separator or a line break"
        )
    [((separator, _), rows)] = tables.items()
    names = list(map(str, range(1, 1 + len(rows[0].fields))))
    return _column(rows, Header(separator, names), choose(names, number))


def _even_rows(text: Text, separator: str) -> list[Row]:
    """Return the rows of a table of several columns; empty if the separator makes none."""
    try:
        rows = list(_rows(text, separator))
    except Unreadable:
        return []
    return rows if len(rows[0].fields) > 1 and _even(rows, None) else []
