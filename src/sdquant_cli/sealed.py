"""JSON documents that contain their checksum, and files with a .sha256 file. Standard library only."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .paths import partial_file

CHECKSUM = "checksum"


def canonical(document: object) -> str:
    """Return the canonical JSON of a document; raises ValueError for a number that is not finite."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def seal(document: Mapping[str, object]) -> bytes:
    """Return the JSON of a document whose field `checksum` is the sha256 of the other fields."""
    return json.dumps({**document, CHECKSUM: _checksum(document)}, indent=1).encode()


def _checksum(document: Mapping[str, object]) -> str:
    rest = {name: value for name, value in document.items() if name != CHECKSUM}
    return hashlib.sha256(canonical(rest).encode()).hexdigest()


def parse(data: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises ValueError for anything else, and for a number that is not finite."""
    try:
        document = json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    return document


def is_sealed(document: Mapping[str, object]) -> bool:
    """Tell if a document has a checksum; raises ValueError if it does not match the other fields."""
    if CHECKSUM not in document:
        return False
    if document[CHECKSUM] != _checksum(document):
        raise ValueError("its checksum does not match its other fields")
    return True


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def not_finite(document: object, name: str = "") -> str | None:
    """Return the first field that is not a finite number, such as facts.losses.3, or None."""
    if isinstance(document, float) and not math.isfinite(document):
        return name
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(document, dict):
        parts = document.items()
    elif isinstance(document, list | tuple):
        parts = enumerate(document)
    for key, value in parts:
        field = not_finite(value, f"{name}.{key}" if name else str(key))
        if field is not None:
            return field
    return None


# ---------------------------------------------------------------------------- files in scratch folders


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write a sealed document; the file has all its bytes, or does not exist."""
    with partial_file(path) as partial:
        partial.write_bytes(seal(document))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a document written by `write_json`; None if it is missing or damaged."""
    try:
        document = parse(path.read_bytes())
        return document if is_sealed(document) else None
    except (OSError, ValueError):
        return None


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` make a file, and store its sha256 next to it; the file is complete, or does not exist."""
    with partial_file(path) as partial:
        write(partial)
        _digest_file(path).write_text(_sha256(partial))


def is_intact(path: Path) -> bool:
    """Tell if a file has the bytes that `write_file` wrote."""
    try:
        return _digest_file(path).read_text() == _sha256(path)
    except (OSError, ValueError):
        return False


def remove_file(path: Path) -> None:
    """Remove a file written by `write_file`, and its sha256."""
    path.unlink()
    _digest_file(path).unlink(missing_ok=True)


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
