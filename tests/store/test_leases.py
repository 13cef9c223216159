"""Processes that share the units of a draft: who takes which, and who takes what a lost one leaves."""

import subprocess
import sys

import pytest

from sdquant_cli import ranks
from sdquant_cli.events import SILENT
from sdquant_cli.store import Draft, Store, leases
from sdquant_cli.store.leases import Leases, is_lease
from sdquant_cli.store.objects import Objects
from sdquant_cli.store.scratch import Member
from sdquant_cli.types import Kind
from tests.store.making import ARRAYS, DATA, FACTS, SPEC, UNITS, Heard, begun

DRAFT = "artifacts/latents/key"
HOLDS_A_LOCK = """
import sys
from pathlib import Path
from sdquant_cli.store.scratch import Member
lock = Member(Path(sys.argv[1]), "other").join()
print("at work", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def clock(monkeypatch):
    """A clock that sleeping moves, and what is done at each of its pauses."""
    time = [0.0]
    at_pause = []

    def sleep(seconds):
        time[0] += seconds
        assert time[0] < 10_000
        for act in at_pause:
            act()

    monkeypatch.setattr(leases.time, "sleep", sleep)
    monkeypatch.setattr(leases.time, "monotonic", lambda: time[0])
    return time, at_pause


def members(tmp_path, *names: str) -> list[Leases]:
    objects = Objects(str(tmp_path / "store"))
    return [Leases(objects, DRAFT, Member(tmp_path / "scratch", name), Heard()) for name in names]


def turns(of: Leases, units, stored: set) -> list[int]:
    """Take turns until all are stored, and store each unit at once."""
    taken = []
    for unit in of.turns(units, lambda: stored, lambda unit: None):
        taken.append(unit)
        stored.add(unit)
    return taken


def test_one_process_takes_all_units_in_order(tmp_path):
    (one,) = members(tmp_path, "one")
    assert turns(one, [0, 2, 3, 7], set()) == [0, 2, 3, 7]
    one.clear()
    assert one._objects.sizes("") == {}


def test_two_processes_take_each_unit_once_and_hear_of_the_others(tmp_path):
    one, other = members(tmp_path, "one", "other")
    stored, passed = set(), ([], [])
    both = [
        of.turns(range(5), lambda: stored, seen.append) for of, seen in zip((one, other), passed, strict=True)
    ]
    taken: tuple[list, list] = ([], [])
    for _ in range(3):
        for units, turn in zip(taken, both, strict=True):
            if len(units) + len(taken[0]) + len(taken[1]) and sum(map(len, taken)) == 5:
                continue
            unit = next(turn)
            units.append(unit)
            stored.add(unit)
    assert sorted(taken[0] + taken[1]) == [0, 1, 2, 3, 4]
    assert [list(turn) for turn in both] == [[], []]
    assert sorted(passed[0]) == sorted(taken[1])
    assert sorted(passed[1]) == sorted(taken[0])


def test_ranks_begin_apart(tmp_path, monkeypatch):
    for name, value in {"MASTER_ADDR": "localhost", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    (one,) = members(tmp_path, "one")
    assert turns(one, range(4), set()) == [2, 3, 0, 1]


def test_what_a_killed_process_held_is_taken_at_once_and_said(tmp_path, clock):
    one, lost = members(tmp_path, "one", "lost")
    next(lost.turns(range(3), set, lambda unit: None))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "lost.lock").touch()  # and nobody locks it
    assert turns(one, range(3), set()) == [0, 1, 2]
    (line,) = one._events.warnings
    assert "unit 0 was left by rank 0 on " in line
    assert clock[0] == [0.0]


def test_what_this_process_left_itself_is_taken_in_silence(tmp_path):
    before, after = members(tmp_path, "one", "one")
    next(before.turns(range(3), set, lambda unit: None))
    assert turns(after, range(3), set()) == [0, 1, 2]
    assert after._events.warnings == []


def test_a_unit_of_a_process_at_work_is_waited_for(tmp_path, clock):
    scratch = tmp_path / "scratch"
    command = [sys.executable, "-c", HOLDS_A_LOCK, str(scratch)]
    one, other = members(tmp_path, "one", "other")
    next(other.turns(range(2), set, lambda unit: None))
    stored, passed = set(), []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"at work\n"
            clock[1].append(lambda: stored.add(0) if clock[0][0] > 20 else None)
            turn = one.turns(range(2), lambda: stored, passed.append)
            assert next(turn) == 1
            stored.add(1)
            assert list(turn) == []
        finally:
            process.kill()
    assert passed == [0]


@pytest.mark.parametrize(("own", "after"), [(None, leases.UNKNOWN), (1.0, leases.FEWEST), (100.0, 300.0)])
def test_a_unit_of_another_machine_is_computed_twice_if_it_takes_much_longer_than_here(
    tmp_path, clock, own, after
):
    """No clock but this process's own is read, so that those of machines may differ."""
    one, elsewhere = members(tmp_path, "one", "elsewhere")
    next(elsewhere.turns([0], set, lambda unit: None))
    stored = set()
    units = [0] if own is None else [0, 1]
    turn = one.turns(units, lambda: stored, lambda unit: None)
    if own is not None:
        assert next(turn) == 1
        clock[0][0] += own
        stored.add(1)
    assert next(turn) == 0
    assert after < clock[0][0] < 1.2 * after + 2 * leases.LONGEST_WAIT  # since its lease was first seen
    stored.add(0)
    assert list(turn) == []


def test_one_of_two_that_wait_takes_a_lost_unit(tmp_path, clock):
    lost, one, other = members(tmp_path, "lost", "one", "other")
    next(lost.turns([0], set, lambda unit: None))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "lost.lock").touch()
    stored = set()
    first = one.turns([0], lambda: stored, lambda unit: None)
    assert next(first) == 0
    clock[1].append(lambda: stored.add(0))
    assert list(other.turns([0], lambda: stored, lambda unit: None)) == []
    assert list(first) == []


def test_a_lease_that_cannot_be_read_is_of_nobody_known(tmp_path, clock):
    one, other = members(tmp_path, "one", "other")
    next(other.turns([0], set, lambda unit: None))
    (tmp_path / "store" / DRAFT / "leases" / "000000.0").write_bytes(b"\xff")
    assert turns(one, [0], set()) == [0]
    assert clock[0][0] > leases.UNKNOWN


def test_paths_of_leases():
    assert is_lease(f"{DRAFT}/leases/000012.0")
    assert not is_lease(f"{DRAFT}/units/000012.json")


def write(draft: Draft, unit: int) -> None:
    start, stop = draft.rows(unit, "x")
    draft.write(unit, {name: values[start:stop] for name, values in DATA.items()}, {"n": stop - start})


def test_two_drafts_share_their_units_and_publish_what_one_publishes(tmp_path, monkeypatch):
    one = begun(Store(str(tmp_path / "store")))
    other = begun(Store(str(tmp_path / "store")))
    for draft, name in ((one, "one"), (other, "other")):  # as in two processes
        monkeypatch.setattr(draft._leases, "_member", Member(tmp_path / name, name))
    with SILENT.task("", 1, "") as task:
        turns = [draft.turns(dict.fromkeys(range(UNITS), 1), task) for draft in (one, other)]
        for draft, turn in ((one, turns[0]), (other, turns[1]), (one, turns[0])):
            write(draft, next(turn))
        assert [list(turn) for turn in turns] == [[], []]
    computed = []

    def facts():
        computed.append(len(one.receipts()))
        return FACTS

    store = Store(str(tmp_path / "store"))
    published = [draft.publish(facts, store.provenance(1)) for draft in (one, other)]
    assert published[0].ref == published[1].ref
    assert computed == [UNITS]  # by one of both
    store.find(Kind.LATENTS, published[0].key).verify()
    assert not list((tmp_path / "store" / published[0].path / "leases").glob("*"))
    assert begun(Store(str(tmp_path / "alone"))).units == UNITS


def test_shares_of_ranks_that_are_not_first_are_not_hashed_again(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "store"))
    write(begun(store), 1)
    monkeypatch.setattr(ranks, "current", lambda: ranks.Ranks(1, 2))
    monkeypatch.setattr("sdquant_cli.store.draft.current", ranks.current)
    draft = begun(store)
    monkeypatch.setattr(draft, "_check", None)
    assert draft.missing() == [0, 2]
    assert ARRAYS.keys() == DATA.keys()
    assert draft._spec == SPEC
