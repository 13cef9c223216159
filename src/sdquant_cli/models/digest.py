"""Digests of files, each read once per process, and the list of files that a component is read from."""

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
    """Return the sha256 of a file; a file that did not change is not read again."""
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns)


def files_read(component: Path, variant: str | None) -> list[Path]:
    """Return the files that a component is read from, without other formats, variants and READMEs."""
    is_tokenizer = component.name.startswith("tokenizer")
    names = _TOKENIZERS if is_tokenizer else _CONFIGURATIONS
    files = [component / name for name in names if (component / name).is_file()]
    if is_tokenizer:
        return files
    weights = find_weights(component, variant)
    if weights.index:
        files.append(weights.index)
    return [*files, *weights.files]


def digest_of(folder: Path, files: Iterable[Path]) -> "hashlib._Hash":
    """Return the sha256 over paths and contents of files in a folder, sorted by path."""
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path.relative_to(folder)} ".encode())
        total.update(file_digest(path))
    return total


@cache
def _sha256(path: Path, _size: int, _changed: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
