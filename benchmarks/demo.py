"""Time and peak memory of `sdquant demo` in a store of its own.  `uv run python benchmarks/demo.py`"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


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
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(done.stdout)
    print(f"demo: {seconds:.0f} s, peak RSS {peak:.2f} GiB")


if __name__ == "__main__":
    main()
