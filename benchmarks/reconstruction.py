"""What block reconstruction needs on the full-size UNet of SD v1-4: memory, disk, time.

    uv run python -m benchmarks.reconstruction            # about an hour on one core; writes 4 GB

Random weights, 32x32 latents, 64 items (32 latents, each with and without its prompt), 2 steps. Every unit
is reconstructed, for a few iterations: memory and disk do not depend on how many. Writes
docs/benchmarks/reconstruction.json.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from tools.random_models.make import make

ROOT = Path(__file__).parents[1]
PROMPTS = ROOT / "examples" / "prompts" / "shapes-train.txt"
PAGE = ROOT / "docs" / "benchmarks" / "reconstruction.json"


def run(store: Path, *words: str) -> dict[str, object]:
    """One command on the store, in a process of its own; its JSON."""
    line = [sys.executable, "-m", "sdquant_cli", *words, "--store", str(store), "--json"]
    return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout)


class DiskWatch(threading.Thread):
    """The most that a file system's use has grown by since the beginning."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.first = folder, shutil.disk_usage(folder).used
        self.most = 0

    def run(self) -> None:
        while True:
            self.most = max(self.most, shutil.disk_usage(self.folder).used - self.first)
            time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "reconstruction")
    parser.add_argument("--method", default="pqd")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--cache-memory", type=float, default=2.0)
    asked = parser.parse_args()
    model, store = asked.folder / "sd-v1-4", asked.folder / "store"
    if not (model / "model_index.json").exists():
        make("sd-v1-4", model)
    setting = ("--model", str(model), "--height", "256", "--width", "256", "--steps", "2")
    run(store, "sample", "--prompts", str(PROMPTS), "--limit", "32", *setting)
    watch = DiskWatch(asked.folder)
    watch.start()
    words = ("--iterations", str(asked.iterations), "--cache-memory", str(asked.cache_memory))
    state = run(store, "calibrate", "--method", asked.method, *words)
    took = state["provenance"]
    result = {
        "method": asked.method,
        "items": 64,
        "iterations": asked.iterations,
        "cache_memory_gb": asked.cache_memory,
        "units": len(state["facts"]["units"]),
        "seconds": took["seconds"],
        "peak_memory_gib": round(took["peak_memory"] / 2**30, 2),
        "disk_gib": round(watch.most / 2**30, 2),
        "forwards": state["facts"]["forwards"],
    }
    print(json.dumps(result, indent=1))
    found = json.loads(PAGE.read_text()) if PAGE.exists() else []
    kept = [one for one in found if one["method"] != asked.method]
    PAGE.write_text(json.dumps([*kept, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
