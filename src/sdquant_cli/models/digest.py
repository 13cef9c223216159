"""Digests of files, each file read once a process; and which files of a pipeline are read at all."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .weights import find_weights

_CONFIGURATIONS = ("config.json", "scheduler_config.json")
_TOKENIZERS = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


def file_digest(path: Path) -> bytes:
    """Return the sha256 of a file; a file that has not changed since is not read again."""
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns)


def files_read(component: Path, variant: str | None) -> list[Path]:
    """Return the files that a component is read from: no second formats, READMEs or other variants."""
    if component.name.startswith("tokenizer"):
        return [path for name in _TOKENIZERS if (path := component / name).is_file()]
    configurations = [path for name in _CONFIGURATIONS if (path := component / name).is_file()]
    weights = find_weights(component, variant)
    return [*configurations, *([weights.index] if weights.index else ()), *weights.files]


def digest_of(folder: Path, files: Iterable[Path]) -> "hashlib._Hash":
    """Return a sha256 over names and contents of files in a folder, in the order of their paths."""
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path.relative_to(folder)} ".encode())
        total.update(file_digest(path))
    return total


@cache
def _sha256(path: Path, _size: int, _changed: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
