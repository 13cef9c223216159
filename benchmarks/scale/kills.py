"""Kill random ones of two processes that make the same artifacts, again and again: nothing may be lost.

    python -m benchmarks.scale.kills --kills 200 --store FOLDER     two processes over a folder
    python -m benchmarks.scale.kills --kills 200 --s3               over an S3 server on the loopback

The stages run on a tiny random model. A killed process is started again at once. When all artifacts are
published, their digests are compared with those of a run without kills, and the units that were computed are
counted: each kill may cost the unit in hand, and no more.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from sdquant_cli.cli.app import app
from sdquant_cli.cli.execute import quiet_libraries
from sdquant_cli.store import Draft, Store, leases

PROMPTS = Path(__file__).parents[2] / "examples" / "prompts" / "shapes-heldout.txt"
Words = Sequence[object]


def stages(model: Path, scale: int = 1) -> list[Words]:
    """Return commands that have several units each."""
    return [
        ("sample", "--prompts", PROMPTS, "--model", model, "--steps", 2, "--limit", min(500, 260 * scale)),
        ("sensitivity", "--limit", 40 * scale, "--micro-batch", 1),
        ("calibrate", "--bits", "w4a8", "--iterations", 60, "--batch-size", 1),
        ("generate", "--prompts", PROMPTS, "--limit", min(500, 130 * scale)),
        ("evaluate", "--against", "fp"),
    ]


@dataclass
class Outcome:
    """What came of the kills of one command."""

    kills: int = 0
    computed: int = 0  # units, by both processes
    units: int = 0  # units that the artifacts have
    differ: list[str] = field(default_factory=list)  # artifacts with other digests than without kills

    def add(self, other: "Outcome") -> None:
        self.kills += other.kills
        self.computed += other.computed
        self.units += other.units
        self.differ += other.differ

    @property
    def is_right(self) -> bool:
        """Whether digests are equal, and no more was redone than units in hand."""
        return not self.differ and self.units <= self.computed <= self.units + self.kills


@contextmanager
def counting(log: Path) -> Iterator[None]:
    """Write a line for each unit that this process begins to compute, but for publications."""
    turns = Draft.turns

    def counted(self: Draft, sizes, task):
        for unit in turns(self, sizes, task):
            with log.open("a") as file:
                file.write(f"{self.name} {unit}\n")
            yield unit

    Draft.turns = counted
    try:
        yield
    finally:
        Draft.turns = turns


def start(words: Words, store: str, folder: Path) -> int:
    """Run a command in a forked process, with a scratch folder of its own for a bucket; return its number."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        with (folder / "told").open("a") as told:
            os.dup2(told.fileno(), 1)
            os.dup2(told.fileno(), 2)
            with counting(folder.parent / "computed"):
                app([*map(str, words), "--store", store], standalone_mode=False)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:  # what it is goes to the log
        print(repr(error), file=sys.stderr)
        code = getattr(error, "exit_code", 1)
    finally:
        os._exit(code)


def kill_some(words: Words, store: str, folder: Path, kills: int, chance: random.Random) -> int:
    """Run a command in two processes, kill them up to so many times; return how often they were killed."""
    running = {start(words, store, folder / str(number)): number for number in range(2)}
    done = 0
    pause = chance.uniform(0.05, 3)
    began = time.monotonic()
    while running:
        for process, number in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if not ended:
                continue
            del running[process]
            if os.WIFSIGNALED(status):
                running[start(words, store, folder / str(number))] = number
            elif os.waitstatus_to_exitcode(status):
                raise SystemExit(
                    f"{folder / str(number) / 'told'}: ended with {os.waitstatus_to_exitcode(status)}"
                )
        if running and done < kills and time.monotonic() - began > pause:
            os.kill(chance.choice(list(running)), signal.SIGKILL)
            done += 1
            began, pause = time.monotonic(), chance.uniform(0.05, 3)
        time.sleep(0.01)
    return done


def compare(store: str, reference: str) -> tuple[list[str], dict[str, int]]:
    """Return the artifacts whose digests differ, and the number of units of each."""
    theirs = {artifact.name: artifact for artifact in Store(reference).artifacts()}
    differ, units = [], {}
    for artifact in Store(store).artifacts():
        artifact.verify()
        units[artifact.name] = len(artifact.manifest.units)
        if theirs[artifact.name].ref != artifact.ref:
            differ.append(artifact.name)
    return differ + sorted(theirs.keys() - units.keys()), units


def run(commands: Sequence[Words], kills: int, store: str, folder: Path, seed: int = 0) -> Outcome:
    """Make all artifacts under kills, until there were enough: with another seed of the noise each time."""
    chance, total = random.Random(seed), Outcome()
    leases.FEWEST = leases.UNKNOWN = 10.0  # seconds: a unit here takes about one
    round_ = 0
    while total.kills < kills:
        for words in commands:
            words = (*words, "--seed", round_) if words[0] in ("sample", "calibrate", "generate") else words
            here = Path(tempfile.mkdtemp(dir=folder))
            here_kills = min(max(1, min(6, kills // len(commands))), kills - total.kills)
            outcome = Outcome(kill_some(words, store, here, here_kills, chance))
            _wait_for(start(words, str(folder / "undisturbed"), here / "alone"))
            _count(outcome, here / "computed", store)
            total.add(outcome)
            print(f"{words[0]}: {outcome.kills} kills", flush=True)
        round_ += 1
    total.differ, _ = compare(store, str(folder / "undisturbed"))
    return total


def _wait_for(process: int) -> None:
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _count(outcome: Outcome, log: Path, store: str) -> None:
    """Count the units that were computed for the store, and those that there are."""
    lines: list[str] = []
    if log.exists():  # else the command has one unit, which no turns count
        lines = [line for line in log.read_text().splitlines() if line.startswith(store)]
    outcome.computed = len(lines)
    outcome.units = len(set(lines))


def main() -> None:
    from tools.random_models.make import make

    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", default="sample,sensitivity,calibrate,generate,evaluate")
    words = parser.parse_args()
    quiet_libraries()
    from tests.store.s3 import BUCKET, serving

    folder = Path(tempfile.mkdtemp())
    changes = {
        "unet": {
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (8, 16),
        }
    }
    model = make("sd-v1-4", folder / "model", tiny=True, changes=changes)
    with serving() if words.s3 else nullcontext((None, {})) as (_, environment):
        os.environ.update(environment)
        store = f"s3://{BUCKET}/store" if words.s3 else str(folder / "store")
        commands = [command for command in stages(model) if command[0] in words.stages.split(",")]
        outcome = run(commands, words.kills, store, folder, words.seed)
    print(json.dumps({**vars(outcome), "is_right": outcome.is_right}))
    sys.exit(not outcome.is_right)


if __name__ == "__main__":
    main()
