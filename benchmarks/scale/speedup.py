"""Two ranks of one thread each against one process of one thread: seconds, seconds of CPU, digests.

    python -m benchmarks.scale.speedup [sample] [generate]

Start-up (imports, loading) is measured by the same command with a unit of work for each rank, and taken off.
On a machine that others use too, seconds say less than seconds of CPU: what two ranks use beyond one process
is what sharing costs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sdquant_cli.store import Store
from sdquant_cli.types import Kind

PROMPTS = Path(__file__).parents[2] / "examples" / "prompts" / "shapes-many.txt"
RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def timed(words: list[str], store: Path, *, ranks: bool) -> tuple[float, float]:
    """Run a command; return its seconds, and those of all CPUs."""
    launcher = RANKS if ranks else ()
    command = [sys.executable, *launcher, "-m", "sdquant_cli", *words, "--store", str(store)]
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


def measured(words: list[str], kind: Kind, limits: tuple[int, int], folder: Path) -> dict[str, object]:
    """Return the figures of one stage, for the prompts between two limits."""
    figures: dict[str, object] = {"limits": limits}
    digests = []
    for name, ranks in (("one process", False), ("two ranks", True)):
        spent = [timed([*words, "--limit", str(n)], folder / f"{name} {n}", ranks=ranks) for n in limits]
        work = [round(whole - start, 1) for start, whole in zip(*spent, strict=True)]
        figures[name] = dict(zip(("seconds", "seconds of CPU"), work, strict=True))
        digests.append(Store(str(folder / f"{name} {limits[1]}")).need(kind).ref.digest)
    figures["equal digests"] = digests[0] == digests[1]
    return figures


STAGES = {  # command, what it makes, prompts: 2 units and more
    "sample": (["sample"], Kind.LATENTS, (512, 2048)),
    "generate": (["generate", "--model", "fp"], Kind.IMAGES, (128, 640)),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}: default, all")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in parser.parse_args().stages or STAGES:
            words, kind, limits = STAGES[name]
            common = ["--prompts", str(PROMPTS), "--steps", "4"]
            figures[name] = measured([*words, *common], kind, limits, Path(folder, name))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
