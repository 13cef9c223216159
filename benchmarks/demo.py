"""Time and peak memory of `sdquant demo` in a store of its own.  `uv run python benchmarks/demo.py`"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sdquant_cli.store import Store


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, picture = Path(folder) / "store", Path(folder) / "demo.png"
        command = [
            sys.executable,
            "-m",
            "sdquant_cli",
            "demo",
            "--store",
            str(store),
            "--output",
            str(picture),
        ]
        began = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - began
        # every artifact being made resets the kernel's mark of the largest resident set
        made = (artifact.manifest.provenance for artifact in Store(str(store)).artifacts())
        mark = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        peak = max(mark, *(provenance.peak_memory or 0 for provenance in made)) / 2**30
    print(done.stdout)
    print(f"demo: {seconds:.0f} s, peak RSS {peak:.2f} GiB")


if __name__ == "__main__":
    main()
