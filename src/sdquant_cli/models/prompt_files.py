"""Reads prompt files: .txt, .csv, .tsv, .jsonl, .parquet, and COCO captions .json.

Blank prompts are skipped and counted; duplicates are kept, since each draws its own noise.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageProblem

COLUMNS = ("prompt", "caption", "text")  # the first of these that a table or record has


@dataclass(frozen=True)
class PromptFile:
    """Prompts in file order."""

    path: Path
    prompts: tuple[str, ...]
    blank: int
    duplicates: int


def read_prompts(path: Path, limit: int | None = None) -> PromptFile:
    """Read a prompt file, the first `limit` prompts of it; raises UsageProblem naming file and line."""
    if not path.exists():
        raise UsageProblem(f"--prompts {path}: no such file")
    if path.is_dir():
        raise UsageProblem(f"--prompts {path}: is a folder, expected a file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageProblem(
            f"--prompts {path}: expected one of {', '.join(_READERS)}, found {path.suffix or 'no suffix'!r}"
        )
    found = [prompt.strip() for prompt in reader(path)]
    prompts = [prompt for prompt in found if prompt]
    if not prompts:
        raise UsageProblem(f"--prompts {path}: holds no prompt")
    kept = tuple(prompts[:limit])
    return PromptFile(path, kept, len(found) - len(prompts), len(kept) - len(set(kept)))


def _text(path: Path) -> str:
    data = path.read_bytes()
    if b"\0" in data:
        raise UsageProblem(f"--prompts {path}: is binary, expected UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageProblem(
            f"--prompts {path}: line {line} is not UTF-8; convert it with `iconv -t UTF-8`"
        ) from None


def _from_lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _from_json_lines(path: Path) -> list[str]:
    prompts = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            try:
                prompts.append(_prompt_of(json.loads(line)))
            except (ValueError, KeyError) as error:
                raise UsageProblem(f"--prompts {path}: line {number}: {_reason(error)}") from None
    return prompts


def _from_json(path: Path) -> list[str]:
    try:
        document = json.loads(_text(path))
        records = document["annotations"] if isinstance(document, dict) else document
        if not isinstance(records, list):
            raise KeyError("annotations")
        return [_prompt_of(record) for record in records]
    except (ValueError, KeyError) as error:
        raise UsageProblem(f"--prompts {path}: expected COCO captions or a list: {_reason(error)}") from None


def _prompt_of(record: Any) -> str:
    """A prompt that is a JSON string, or a field of a JSON object."""
    if isinstance(record, str):
        return record
    if isinstance(record, dict):
        for column in COLUMNS:
            if isinstance(record.get(column), str):
                return record[column]
    raise KeyError(f"no text field {' or '.join(COLUMNS)}")


def _reason(error: Exception) -> str:
    return str(error.args[0]) if error.args else type(error).__name__


def _from_table(read: Callable[[Path], Any]) -> Callable[[Path], list[str]]:
    def reader(path: Path) -> list[str]:
        try:
            table = read(path)
        except (ValueError, OSError) as error:
            raise UsageProblem(f"--prompts {path}: {str(error).splitlines()[0]}") from None
        names = [name for name in COLUMNS if name in table.columns]
        if not names and len(table.columns) > 1:
            found = ", ".join(map(str, table.columns))
            raise UsageProblem(f"--prompts {path}: expected a column {' or '.join(COLUMNS)}, found {found}")
        column = table[names[0]] if names else table.iloc[:, 0]
        return [str(value) for value in column.fillna("")]

    return reader


def _read_delimited(separator: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        import io

        import pandas

        return pandas.read_csv(io.StringIO(_text(path)), sep=separator, dtype=str, skip_blank_lines=False)

    return read


def _read_parquet(path: Path) -> Any:
    import pandas

    return pandas.read_parquet(path)


_READERS: dict[str, Callable[[Path], list[str]]] = {
    ".txt": _from_lines,
    ".csv": _from_table(_read_delimited(",")),
    ".tsv": _from_table(_read_delimited("\t")),
    ".jsonl": _from_json_lines,
    ".parquet": _from_table(_read_parquet),
    ".json": _from_json,
}
