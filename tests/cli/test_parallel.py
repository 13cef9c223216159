"""Commands of ranks: who runs what, who prints, and what differs between them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdquant_cli import ranks
from sdquant_cli.cli import parallel
from sdquant_cli.cli.command import Invocation
from sdquant_cli.cli.render import OtherRank, Terminal, terminal
from sdquant_cli.errors import UsageProblem
from sdquant_cli.options.commands import COMMANDS, ListRequest
from sdquant_cli.options.requests import SampleRequest
from tests.conftest import PROMPTS, Sdquant
from tests.test_ranks import TORCHRUN

SMALL = ("--prompts", PROMPTS / "shapes-heldout.txt", "--steps", 2)


@pytest.fixture
def second(monkeypatch):
    """This process is the second of two ranks; what is agreed on is recorded."""
    for name, value in (TORCHRUN | {"WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    agreed = []
    monkeypatch.setattr(ranks, "agree", agreed.append)
    return agreed


def request() -> SampleRequest:
    return SampleRequest(prompts=Path("a.txt"), seed=7)


def test_the_first_rank_alone_runs_what_is_no_stage(second):
    assert not parallel.takes_part(COMMANDS["ls"], ListRequest(), Invocation())
    assert not parallel.takes_part(COMMANDS["sample"], request(), Invocation(dry_run=True))
    assert second == []


def test_ranks_agree_on_the_flags_of_a_stage(second):
    assert parallel.takes_part(COMMANDS["sample"], request(), Invocation(store="s3://b/x"))
    (values,) = second
    assert values["--seed"] == 7
    assert values["--prompts"] == Path("a.txt")
    assert values["--store"] == "s3://b/x"


def test_another_rank_prints_nothing_and_warns_with_its_number(second, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    parallel.hush()
    print("data")  # noqa: T201
    events = terminal()
    assert isinstance(events, OtherRank)
    with events.task("a", 2, "b") as task:
        task.advance(2)
    events.note("a note")
    events.warn("damaged")
    sys.stdout.close()
    monkeypatch.undo()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "warning: rank 1: damaged\n"


def test_a_rank_has_a_log_on_demand(second, monkeypatch, tmp_path):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    monkeypatch.setenv(ranks.LOGS, str(tmp_path / "logs"))
    parallel.hush()
    events = terminal()
    assert isinstance(events, Terminal)
    events.note("a note")
    for stream in (sys.stdout, sys.stderr):
        stream.close()
    monkeypatch.undo()
    assert (tmp_path / "logs" / "rank-00001.log").read_text() == "a note\n"


def test_a_wrong_variable_is_one_line(sdquant, monkeypatch):
    for name, value in (TORCHRUN | {"RANK": "x"}).items():
        monkeypatch.setenv(name, value)
    assert sdquant("ls", code=UsageProblem.exit_code).stderr.startswith("sdquant: RANK=x: expected a number")


def torchrun(*words: object, store: Path, ranks: int = 2) -> subprocess.CompletedProcess:
    """Run a command in ranks of one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
    return subprocess.run(
        [*map(str, (*command, "-m", "sdquant_cli", *words, "--store", store))],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_two_ranks_make_what_one_process_makes_and_print_it_once(tmp_path, tiny):
    model = ("--model", tiny("sd-v1-4/two-blocks"))
    words = ("sample", *SMALL, *model, "--limit", 300, "--json")
    alone = json.loads(Sdquant(tmp_path / "alone")(*words).stdout)
    done = torchrun(*words, store=tmp_path / "shared")
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout)  # one document
    assert (shared["key"], shared["digest"]) == (alone["key"], alone["digest"])
    assert len(shared["units"]) == 2
    assert (shared["provenance"]["ranks"], alone["provenance"]["ranks"]) == (2, 1)
    Sdquant(tmp_path / "shared")("verify")


def test_ranks_of_other_flags_are_refused_before_work(tmp_path):
    code = (
        "import os, sys; from sdquant_cli.cli import main; "
        "sys.argv = ['sdquant', *sys.argv[1:], '--seed', os.environ['RANK']]; main()"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--no-python",
    ]
    words = [sys.executable, "-c", code, "sample", *map(str, SMALL), "--store", str(tmp_path / "store")]
    done = subprocess.run([*command, *words], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "--seed is 1, of rank 0 it is 0; start all ranks with the same command" in done.stderr
    assert not (tmp_path / "store").exists()
