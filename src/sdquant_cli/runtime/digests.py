"""sha256 digests of files, and the error for a file that has changed."""

import hashlib
import json
from pathlib import Path

from ..errors import DamagedArtifact

FIELD = "sha256"  # of a quantization_config, with the digests of weight files
REMEDY = "export the folder again with `sdquant export`"


def sha256(path: Path) -> str:
    """Return the digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(folder: Path) -> None:
    """Write the digests of a packed network's weight files into its config.json."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    weights = {file.name: sha256(file) for file in sorted(folder.glob("*.safetensors"))}
    content["quantization_config"][FIELD] = weights
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def check(path: Path, expected: str) -> None:
    """Raise DamagedArtifact unless the file has this digest."""
    if sha256(path) != expected:
        raise DamagedArtifact(f"{path}: has changed since it was written; {REMEDY}")
