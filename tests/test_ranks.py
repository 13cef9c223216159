"""Ranks: what torchrun's variables say, and what ranks tell each other (two processes over gloo)."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from sdquant_cli import ranks
from sdquant_cli.errors import UsageProblem
from sdquant_cli.ranks import Ranks, of

TORCHRUN = {"MASTER_ADDR": "127.0.0.1", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}


def test_without_torchrun_there_is_one_process():
    for environment in ({}, {"RANK": "3", "WORLD_SIZE": "4"}, {"MASTER_ADDR": "x"}):
        assert of(environment) == Ranks(0, 1, 0)
    assert of(TORCHRUN) == Ranks(1, 4, 1)
    assert not of(TORCHRUN).is_first


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"RANK": "one"}, "RANK=one: expected a number"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE=-1: expected a number"),
        ({"LOCAL_RANK": "¹"}, "LOCAL_RANK=¹: expected a number"),
        ({"RANK": "4"}, "RANK=4: expected less than WORLD_SIZE=4"),
    ],
)
def test_what_torchrun_does_not_set_is_refused(change, says):
    with pytest.raises(UsageProblem, match=says):
        of(TORCHRUN | change)


def test_each_rank_begins_elsewhere_and_comes_to_all():
    orders = [Ranks(rank, 3).rotated(range(7)) for rank in range(3)]
    assert [order[0] for order in orders] == [0, 2, 4]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert Ranks().rotated([5, 6]) == [5, 6]


def test_alone_is_one_process_for_a_while(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert ranks.current().count == 4
    with ranks.alone():
        assert ranks.current() == Ranks()
        ranks.agree({"a": 1})
        assert ranks.broadcast(3) == 3
    assert ranks.current().rank == 1


def test_one_process_does_not_import_what_ranks_need():
    code = (
        "import sys; from sdquant_cli import ranks; ranks.agree({'a': 1}); ranks.broadcast(1); "
        "ranks.add([]); ranks.leave(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


EXCHANGES = """
import torch
from sdquant_cli import ranks
from sdquant_cli.errors import UsageProblem

rank = ranks.current().rank
ranks.agree({"seed": 0, "model": "m"})
assert ranks.broadcast({"of": rank}) == {"of": 0}
big = torch.full(((1 << 24) + 3,), float(rank + 1))
tensors = [torch.full((2, 3), 1.0 + rank), big, torch.tensor([2.0 ** rank], dtype=torch.float64)]
ranks.add(tensors)
assert tensors[0].eq(3).all() and tensors[1].eq(3).all() and tensors[2].item() == 3.0
view = torch.zeros(4, requires_grad=True)
ranks.add([view])  # a parameter, in place
try:
    ranks.agree({"kind": "latents", "seed": rank, "only of rank %d" % rank: 1})
except UsageProblem as error:
    print(error)
ranks.leave()
"""


def started(code: str, count: int = 2, arguments: Sequence[str] = ()) -> list[subprocess.Popen]:
    """Processes with the variables that torchrun sets."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(count):
        variables = TORCHRUN | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_PORT": str(port),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env=os.environ | variables | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    try:
        return [(process, *process.communicate(timeout=90)) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_two_ranks_exchange_values_sums_and_what_they_disagree_on():
    told = ended(started(EXCHANGES))
    for process, out, err in told:
        assert process.returncode == 0, err
        assert out.startswith("rank 1: seed is 1, of rank 0 it is 0; start all ranks with the same command")


def test_a_connection_that_fails_is_one_line(monkeypatch):
    code = """
from datetime import timedelta
from sdquant_cli import ranks
from sdquant_cli.errors import EnvironmentProblem
ranks.PATIENCE = timedelta(seconds=2)
try:
    ranks.agree({})
except EnvironmentProblem as error:
    print(error)
"""
    processes = started(code)
    processes[1].kill()
    _, out, err = ended(processes)[0]
    assert out.startswith("rank 0: "), err
    assert out.strip().endswith("stored data is intact, start the same command again")
