"""The proof that an exported folder is intact: digests of its files, and a stored call to replay.

provenance.json has the sha256 of every other file, and of its own text without that entry.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import DamagedArtifact, UsageProblem, first_line
from ..metrics.ratios import snr
from ..models.conditioning import Conditioning, predict
from . import digests

PROVENANCE, SELF_TEST = "provenance.json", "selftest.safetensors"
_PARTS = tuple(field.name for field in fields(Conditioning))
_CHECKSUM = "sha256"  # the field of provenance.json with its own digest


def write_self_test(
    network: nn.Module, x: Tensor, timestep: Tensor, conditioning: Conditioning, file: Path
) -> None:
    """Store the inputs and the output of one call of the network."""
    with torch.no_grad():
        tensors = {"x": x, "timestep": timestep, "output": predict(network, x, timestep, conditioning)}
    tensors |= {n: t for n in _PARTS if (t := getattr(conditioning, n)) is not None}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def replay(network: nn.Module, file: Path) -> float:
    """Return the SNR, in dB, of a network's output for the stored call; infinite if it is identical.

    Raises DamagedArtifact for a file without a call of this network.
    """
    with refusing_other_calls(file), torch.no_grad():
        stored = load_file(file)
        conditioning = Conditioning(**{name: stored[name] for name in _PARTS if name in stored})
        answer = predict(network, stored["x"], stored["timestep"], conditioning)
        ratio = snr(stored["output"][None], answer[None])
    return float(ratio)


@contextmanager
def refusing_other_calls(file: Path) -> Iterator[None]:
    """Raise DamagedArtifact where a file within does not have a call of the network at hand."""
    try:
        yield
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise DamagedArtifact(
            f"{file}: has no call of this network ({type(error).__name__}: {first_line(error)}); "
            f"{digests.REMEDY}"
        ) from None


def write_provenance(folder: Path, facts: Mapping[str, object]) -> None:
    """Write the facts and the digests of all files; call it after all files are written."""
    files = {name: digests.sha256(folder / name) for name in _files(folder)}
    (folder / PROVENANCE).write_text(provenance_text({**facts, "files": files}))


def provenance_text(content: Mapping[str, object]) -> str:
    """Return the text of provenance.json, its own checksum included."""
    checksum = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    return json.dumps({**content, _CHECKSUM: checksum}, indent=1) + "\n"


def check_files(folder: Path) -> int:
    """Check all files and return their number; raises DamagedArtifact that names a changed file."""
    files = _read_provenance(folder / PROVENANCE)
    present = _files(folder)
    for name, digest in files.items():
        if name not in present:
            raise DamagedArtifact(f"{folder / name}: is missing; {digests.REMEDY}")
        digests.check(folder / name, digest)
    for name in present:
        if name not in files and "/" in name:  # diffusers might load it
            raise DamagedArtifact(
                f"{folder / name}: is not one of the exported files; remove it, or {digests.REMEDY}"
            )
    return len(files)


def _read_provenance(path: Path) -> dict[str, str]:
    """Return the digests by file name from an intact provenance.json."""
    try:
        text = path.read_text()
        content = json.loads(text)
        content.pop(_CHECKSUM)
        files: dict[str, str] = dict(content["files"])
    except FileNotFoundError:
        raise UsageProblem(
            f"{path.parent}: no {path.name}; expected a folder that `sdquant export` wrote"
        ) from None
    except KeyError as error:
        raise DamagedArtifact(
            f"{path}: has no {error}; it is damaged or from an older sdquant; {digests.REMEDY}"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedArtifact(f"{path}: {type(error).__name__}: {error}; {digests.REMEDY}") from None
    if provenance_text(content) != text:
        raise DamagedArtifact(f"{path}: has changed since it was written; {digests.REMEDY}")
    return files


def _files(folder: Path) -> list[str]:
    """Return the relative paths of all files except provenance.json and hidden ones."""
    names = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and not hidden and relative.as_posix() != PROVENANCE:
            names.append(relative.as_posix())
    return names
