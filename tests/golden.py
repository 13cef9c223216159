"""Golden content of every artifact kind, on the embedded model at tiny settings.

`python -m tests.golden` records `tests/data/golden.json` anew. Do that only where results are meant to
change, raise the `stage_version` of the specs concerned, and give the reason in the CHANGELOG: users'
stores hold artifacts under these keys.
"""

import hashlib
import json
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "data" / "golden.json"
PROMPTS = Path(__file__).parent.parent / "examples" / "prompts"
HELDOUT = PROMPTS / "shapes-heldout.txt"
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scipy", "zarr", "numcodecs")

TRAIN = "TRAIN"  # stands for a file of two prompts
BOARD = "BOARD"  # stands for the leaderboard's page
COMMANDS: list[tuple[str | int | Path, ...]] = [
    (
        *("leaderboard", "--methods", "rtn", "--bits", "w8a8", "--steps", 3, "--seed", 0),
        *("--prompts", TRAIN, "--limit", 2, "--output", BOARD),
    ),
    ("sensitivity",),
    ("calibrate", "--preset", "paper-sd14", "--bits", "w4a8", "--iterations", 2, "--batch-size", 2),
    ("calibrate", "--bits", "w4a8", "--mixed", "--iterations", 2, "--batch-size", 2),
    ("generate", "--prompts", HELDOUT, "--limit", 2, "--engine", "simulated"),
    ("evaluate", "--no-floor", "--drift", "--drift-prompts", 2),
]
SLOW_COMMANDS: list[tuple[str | int | Path, ...]] = [
    ("sample", "--prompts", TRAIN, "--steps", 3, "--per-prompt", 2, "--seed", 3),
    ("precalc-time",),
    ("sensitivity", "--measure", "fisher"),
    ("calibrate", "--method", "q-diffusion", "--iterations", 1, "--batch-size", 2),
    ("calibrate", "--method", "pcr", "--iterations", 1, "--batch-size", 2),
    (
        *("calibrate", "--method", "rtn", "--time-path", "quantized", "--tables", "single"),
        *("--attention-bits", 8, "--correction"),
    ),
    ("sample", "--prompts", TRAIN, "--steps", 3, "--select", "density", "--scheduler", "ddim"),
]
TIMED = {"seconds", "peak_memory"}  # facts that differ from run to run


def fingerprint() -> dict[str, str]:
    """Return what decides the last digits of results on this machine, and the bytes they are stored as."""
    import torch

    from sdquant_cli.native import build

    compiled = build.load("quantize") is not None
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "vendor": _vendor(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "kernels": " ".join(build.FLAGS) if compiled else "plain torch",
    } | {name: version(name) for name in PACKAGES}


def _vendor() -> str:
    try:
        match = re.search(r"^vendor_id\s*:\s*(\S+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return platform.processor()
    return match[1] if match else platform.processor()


def make(folder: Path, commands: list[tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    """Run commands on a new store in `folder`; return what describes each artifact, by its lineage."""
    from tests.conftest import Sdquant

    train = folder / "train.txt"
    train.write_text("a big red circle\na small blue square\n")
    files = {TRAIN: train, BOARD: folder / "board.html"}
    sdquant = Sdquant(folder / "store")
    made: dict[str, dict[str, Any]] = {}
    for words in commands:
        before = time.process_time()
        sdquant(*(files.get(word, word) for word in words))
        command = " ".join(word.name if isinstance(word, Path) else str(word) for word in words)
        sys.stderr.write(f"{time.process_time() - before:6.1f} s of CPU  {command}\n")
        for lineage, entry in _described(sdquant.opened()):
            made.setdefault(lineage, {"command": command} | entry)
    return made


def _described(store: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lineage of each published artifact and what describes its content."""
    artifacts = {artifact.manifest.key: artifact for artifact in store.artifacts()}
    for artifact in artifacts.values():
        manifest = artifact.manifest.model_dump(mode="json")
        yield (
            _lineage(artifact, artifacts),
            {
                "kind": manifest["kind"],
                "key": manifest["key"],
                "digest": manifest["digest"],
                "inputs": {role: ref["digest"] for role, ref in manifest["inputs"].items()},
                "facts": _hash(_without_times(manifest["facts"])),
                "arrays": {name: _statistics(artifact.read(name)) for name in sorted(manifest["arrays"])},
            },
        )


def _lineage(artifact: Any, artifacts: dict[str, Any]) -> str:
    """Return a hash of an artifact's spec, arrays' layout and inputs' lineages: the same on any machine."""
    manifest = artifact.manifest.model_dump(mode="json", exclude_none=True)
    layout = ("shape", "dtype", "dims", "chunk_rows", "unit_rows", "compressed")
    identity = {
        "kind": manifest["kind"],
        "spec": manifest["spec"],
        "inputs": {r: _lineage(artifacts[ref["key"]], artifacts) for r, ref in manifest["inputs"].items()},
        "arrays": {name: [info[part] for part in layout] for name, info in manifest["arrays"].items()},
    }
    return _hash(identity)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(item) for name, item in value.items() if name not in TIMED}
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    return value


def _statistics(values: np.ndarray) -> list[float]:
    """Return count, mean and standard deviation of the finite values; bytes and texts have their sha256."""
    if values.dtype.kind not in "biuf":
        return [values.size, int(hashlib.sha256(repr(values.tolist()).encode()).hexdigest()[:8], 16), 0.0]
    numbers = values.astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return [0, 0.0, 0.0]
    return [numbers.size, float(f"{numbers.mean():.6g}"), float(f"{numbers.std():.6g}")]


def main() -> None:
    """Record the golden file."""
    with tempfile.TemporaryDirectory() as folder:
        quick = make(_subfolder(folder, "quick"), COMMANDS)
        slow = make(_subfolder(folder, "slow"), SLOW_COMMANDS)
    document = {"fingerprint": fingerprint(), "quick": quick, "slow": slow}
    GOLDEN.write_text(json.dumps(document, indent=1) + "\n")


def _subfolder(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


if __name__ == "__main__":
    import os

    import pytest

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as empty:
        patch.setitem(os.environ, "SDQUANT_WEIGHTS", empty)
        main()
