"""Time and peak memory of `sdquant evaluate` on pictures that were never drawn: all offline metrics, floor
and reference rows included.   `uv run python -m benchmarks.evaluate 1000 10000 [--side 64]`
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sdquant_cli.store import Store
from tests.fakes import noisy, pictures, publish_pictures


def fill(store: Store, count: int, side: int) -> None:
    """A reference, pictures of other noise, and pictures near the reference."""
    reference = pictures(count, 0, side)
    publish_pictures(store, pictures(count, 1, side), "fp", seed=1)
    publish_pictures(store, reference, "fp")
    publish_pictures(store, noisy(reference, 4), "simulated")


def measure(folder: str) -> tuple[float, float]:
    """Seconds, start-up included, and peak resident MiB of one run."""
    code = (
        "import re, sys; from sdquant_cli.cli import app\n"
        f"try: app(['evaluate', '--store', {folder!r}, '--weights-dir', '/nonexistent'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(open('/proc/self/status').read())"  # VmHWM: getrusage counts the parent's peak too
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    )
    seconds = time.perf_counter() - began
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert peak is not None
    return seconds, int(peak[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="*", type=int, default=[1000])
    parser.add_argument("--side", type=int, default=64, help="pixels")
    arguments = parser.parse_args()
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "store")
            fill(Store(path), count, arguments.side)
            seconds, peak = measure(path)
        print(
            f"{count} pairs of {arguments.side}x{arguments.side}: {seconds:.1f} s, peak RSS {peak:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
