"""The proof that an exported folder is as it was written: digests of its files, and a stored call.

provenance.json has the sha256 of every other file, and of its own text without that entry.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import DamagedArtifact, UsageProblem, first_line
from ..metrics.ratios import snr
from ..models.conditioning import Conditioning, predict
from . import digests

PROVENANCE, SELF_TEST = "provenance.json", "selftest.safetensors"
_CHECKSUM = "sha256"  # the entry of provenance.json about itself


def write_self_test(
    network: nn.Module, x: Tensor, timestep: Tensor, conditioning: Conditioning, file: Path
) -> None:
    """Store one call's inputs and output, computed by the network as it is."""
    with torch.no_grad():
        tensors = {"x": x, "timestep": timestep, "output": predict(network, x, timestep, conditioning)}
    tensors["tokens"] = conditioning.tokens
    tensors |= {n: t for n in ("pooled", "size") if (t := getattr(conditioning, n)) is not None}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def replay(network: nn.Module, file: Path) -> float:
    """Return the signal to noise, dB, of a network's answer to the stored call; infinite if it is the same.

    Raises DamagedArtifact for a file that holds no call of this network.
    """
    try:
        stored = load_file(file)
        conditioning = Conditioning(stored["tokens"], stored.get("pooled"), stored.get("size"))
        with torch.no_grad():
            answer = predict(network, stored["x"], stored["timestep"], conditioning)
        ratio = snr(stored["output"][None], answer[None])
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise DamagedArtifact(
            f"{file}: holds no call of this network ({type(error).__name__}: {first_line(error)}); "
            f"{digests.AGAIN}"
        ) from None
    return float(ratio)


def write_provenance(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the facts and the digests of all files; call it last."""
    files = {name: digests.sha256(folder / name) for name in _files(folder)}
    (folder / PROVENANCE).write_text(provenance_text({**facts, "files": files}))


def provenance_text(content: Mapping[str, Any]) -> str:
    """Return the text of provenance.json, with the checksum of it."""
    checksum = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    return json.dumps({**content, _CHECKSUM: checksum}, indent=1) + "\n"


def check_files(folder: Path) -> int:
    """Return how many files there are, all as written; raise DamagedArtifact that names one that is not."""
    files = _read_provenance(folder / PROVENANCE)
    present = _files(folder)
    for name, digest in files.items():
        if name not in present:
            raise DamagedArtifact(f"{folder / name}: is missing; {digests.AGAIN}")
        digests.check(folder / name, digest)
    for name in present:
        if name not in files and "/" in name:  # diffusers may load it
            raise DamagedArtifact(
                f"{folder / name}: is not among the files that were written; remove it, or {digests.AGAIN}"
            )
    return len(files)


def _read_provenance(path: Path) -> dict[str, str]:
    """Return the digests by name, of a provenance.json that is as it was written."""
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
            f"{path}: has no {error}; it is damaged, or an older sdquant wrote it; {digests.AGAIN}"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedArtifact(f"{path}: {type(error).__name__}: {error}; {digests.AGAIN}") from None
    if provenance_text(content) != text:
        raise DamagedArtifact(f"{path}: is not as it was written; {digests.AGAIN}")
    return files


def _files(folder: Path) -> list[str]:
    """Return the names of all files but provenance.json and hidden ones, relative to the folder."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]
    return [name for name in shown if name != PROVENANCE]
