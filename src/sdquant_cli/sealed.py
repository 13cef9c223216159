"""JSON that carries its own checksum, and files with their sha256 beside them. Standard library only."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CHECKSUM = "checksum"


def canonical(document: object) -> str:
    """Return the one JSON text of a document; raises ValueError for a number that is not finite."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def seal(document: dict[str, Any]) -> bytes:
    """Return the JSON of a document with the sha256 of all the rest in its field `checksum`."""
    return json.dumps({**document, CHECKSUM: _checksum(document)}, indent=1).encode()


def _checksum(document: dict[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != CHECKSUM}
    return hashlib.sha256(canonical(rest).encode()).hexdigest()


def parse(data: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises ValueError for anything else, and for a number that is not finite."""
    try:
        document = json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    return document


def is_sealed(document: dict[str, Any]) -> bool:
    """Tell if a document has a checksum; raises ValueError if that does not match the rest."""
    if CHECKSUM not in document:
        return False
    if document[CHECKSUM] != _checksum(document):
        raise ValueError("its checksum does not match the rest")
    return True


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def not_finite(document: object, name: str = "") -> str | None:
    """Return the name of the first number in a document that is not finite, as in facts.losses.3."""
    if isinstance(document, float) and not math.isfinite(document):
        return name
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(document, dict):
        parts = document.items()
    elif isinstance(document, list | tuple):
        parts = enumerate(document)
    for key, value in parts:
        if bad := not_finite(value, f"{name}.{key}" if name else str(key)):
            return bad
    return None


# ----------------------------------------------------------------------------- files in scratch


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a sealed document as a whole: it is there with all its bytes, or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(seal(document))
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a document that `write_json` wrote; None where it is absent or damaged."""
    try:
        document = parse(path.read_bytes())
        return document if is_sealed(document) else None
    except (OSError, ValueError):
        return None


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a new file, as a whole, with its sha256 in a file beside it."""
    partial = path.with_suffix(".partial")
    write(partial)
    _digest_file(path).write_text(_sha256(partial))
    partial.replace(path)


def is_intact(path: Path) -> bool:
    """Tell if a file has the bytes that `write_file` left."""
    try:
        return _digest_file(path).read_text() == _sha256(path)
    except (OSError, ValueError):
        return False


def remove_file(path: Path) -> None:
    """Remove a file that `write_file` made."""
    path.unlink()
    _digest_file(path).unlink(missing_ok=True)


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
