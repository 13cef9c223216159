"""sha256 digests of files, and the error for a file that has changed."""

import hashlib
from pathlib import Path

from ..errors import DamagedArtifact

REMEDY = "export the folder again with `sdquant export`"


def sha256(path: Path) -> str:
    """Return the digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, expected: str) -> None:
    """Raise DamagedArtifact unless the file has this digest."""
    if sha256(path) != expected:
        raise DamagedArtifact(f"{path}: has changed since it was written; {REMEDY}")
