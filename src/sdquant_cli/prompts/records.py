"""Read JSON Lines and JSON: each record is a text, or an object with the prompts in one of its fields."""

import json
from collections.abc import Iterator
from pathlib import Path

from .columns import candidates, choose
from .entries import Entry, Unreadable
from .lines import read_document, read_lines

_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def read_json_lines(path: Path, column: str | None) -> Iterator[Entry]:
    """Yield the texts of the record in each line; blank lines are skipped."""
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield from _entries(_parse(line.rstrip(), number), column, f"line {number}")


def read_json(path: Path, column: str | None) -> Iterator[Entry]:
    """Yield the texts of a list of records, of COCO's annotations, or of one record."""
    document = _parse(read_document(path))
    name = ""
    if isinstance(document, dict) and "annotations" in document:
        name, document = "annotations", document["annotations"]
        if not isinstance(document, list):
            raise Unreadable(f"annotations: expected a list, found {_kind(document)}")
    elif isinstance(document, dict) and not candidates(list(document), column):
        choose(list(document), column, "field `annotations` of COCO, or a field")
    if not isinstance(document, list):
        yield from _entries(document, column, "the record")
        return
    for index, record in enumerate(document):
        yield from _entries(record, column, f"{name}[{index}]")


def _parse(text: str, line: int = 1) -> object:
    """Parse JSON that begins at a line; raise Unreadable if it is invalid, too deep or repeats a field."""
    try:
        return json.loads(text, object_pairs_hook=_unambiguous, parse_int=float)  # int() has a limit
    except json.JSONDecodeError as error:
        hint = "; if each line is a record, name the file .jsonl" if error.msg == "Extra data" else ""
        at = f"line {line + error.lineno - 1} column {error.colno}"
        raise Unreadable(f"{at}: not valid JSON: {error.msg}{hint}") from None
    except RecursionError:
        raise Unreadable(f"line {line}: too deeply nested") from None
    except ValueError as error:
        raise Unreadable(f"line {line}: {error}") from None


def _unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record: dict[str, object] = {}
    for name, value in pairs:
        if name in record:
            raise ValueError(f"an object has the field {name!r} twice")
        record[name] = value
    return record


def _entries(record: object, column: str | None, position: str) -> Iterator[Entry]:
    try:
        texts = _texts(record, column)
    except Unreadable as error:
        raise Unreadable(f"{position}: {error}") from None
    for text in texts:
        yield Entry(position, text)


def _texts(record: object, column: str | None) -> list[str]:
    if isinstance(record, str) and column is None:
        return [record]
    if not isinstance(record, dict):
        expected = "a text or an object" if column is None else f"an object with {column!r}"
        raise Unreadable(f"expected {expected}, found {_kind(record)}")
    names = list(record)
    name = names[choose(names, column, "field")]
    texts = []
    for value in record[name] if isinstance(record[name], list) else [record[name]]:
        if not isinstance(value, str | None):
            raise Unreadable(f"{name}: expected text, found {_kind(value)}")
        texts.append(value or "")
    return texts


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number")
