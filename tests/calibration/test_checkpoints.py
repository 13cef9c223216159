"""What lies in scratch is gone on from only with the bytes that were written."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sdquant_cli.calibration import checkpoints
from sdquant_cli.calibration.checkpoints import Scratch, resumable, run_from_last
from sdquant_cli.calibration.selection import pilot
from sdquant_cli.events import SILENT
from sdquant_cli.meter import Meter
from tests.store.making import Heard, flip


class Counting:
    """A training of 220 iterations, whose state is a tensor."""

    iterations = 220

    def __init__(self) -> None:
        self.iteration, self.value, self.ended = 0, torch.zeros(4), False
        self.stop_at = None

    def step(self) -> None:
        if self.iteration == self.stop_at:
            raise KeyboardInterrupt
        self.iteration += 1
        self.value = self.value * 0.5 + self.iteration

    def finish(self) -> None:
        self.ended = True

    def state_dict(self) -> dict:
        return {"iteration": self.iteration, "value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.iteration, self.value = state["iteration"], state["value"]
        self.resumed_at = self.iteration


class Listening(Heard):
    def task(self, *args):
        return SILENT.task(*args)


def scratch_in(folder):
    return Scratch(folder, Meter(folder / "cost.json").save, SILENT)


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A scratch folder with checkpoints of iterations 100 and 150."""
    monkeypatch.setattr(checkpoints, "PACE", 0)
    scratch = scratch_in(tmp_path)
    training = Counting()
    training.stop_at = 170
    with pytest.raises(KeyboardInterrupt):
        run_from_last(training, scratch)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["00000100.pt", "00000150.pt"]
    assert len(list(tmp_path.iterdir())) == 5  # with their sha256, and cost.json
    return scratch


def harm(path, how: str) -> None:
    data = path.read_bytes()
    if how == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "no sha256":
        path.with_name(path.name + ".sha256").unlink()
    else:
        flip(path, data.index(b"\x80") if how == "flip in the header" else len(data) // 2)


@pytest.mark.parametrize("how", ["flip", "flip in the header", "truncate", "empty", "no sha256"])
@pytest.mark.parametrize(("victims", "resumed_at"), [(("150",), 100), (("100", "150"), None)])
def test_a_damaged_checkpoint_is_not_gone_on_from(interrupted, how, victims, resumed_at):
    for name in victims:
        harm(interrupted.folder / f"00000{name}.pt", how)
    heard, training = Listening(), Counting()
    run_from_last(training, replace(interrupted, events=heard))
    assert getattr(training, "resumed_at", None) == resumed_at
    assert len(heard.warnings) == len(victims)
    undisturbed = Counting()
    while undisturbed.iteration < undisturbed.iterations:
        undisturbed.step()
    assert torch.equal(training.value, undisturbed.value)
    assert training.ended


def test_finished_steps_are_replayed_and_the_others_run(tmp_path):
    """Of four steps two are done, and one of these two is damaged."""
    names = [f"step-{index}.pt" for index in range(4)]
    scratch, ran, replayed = scratch_in(tmp_path), [], []

    def run(index):
        ran.append(index)
        return {"value": torch.tensor(float(index))}

    steps = resumable(scratch, names, run, replayed.append)
    assert [float(next(steps)["value"]) for _ in range(2)] == [0, 1]
    harm(tmp_path / names[1], "flip")
    heard = Listening()
    states = resumable(replace(scratch, events=heard), names, run, replayed.append)
    assert [float(state["value"]) for state in states] == [0, 1, 2, 3]
    assert ran == [0, 1, 1, 2, 3]
    assert [float(state["value"]) for state in replayed] == [0]
    assert len(heard.warnings) == 1


@pytest.mark.parametrize(
    "data", [b"", b"[1", b"[" * 100_000, b'{"seconds": 1e999}', b'{"seconds": 5}', b"\xff"]
)
def test_a_damaged_cost_file_counts_nothing(tmp_path, data):
    first = Meter(tmp_path / "cost.json")
    first.save()
    assert Meter(tmp_path / "cost.json").resumed
    (tmp_path / "cost.json").write_bytes(data)
    damaged = Meter(tmp_path / "cost.json")
    assert not damaged.resumed
    assert damaged.seconds < 5


def test_a_damaged_choice_of_steps_is_made_again(tmp_path, monkeypatch):
    chosen = []

    def choose(*_):
        chosen.append(1)
        return (3, 1, 4)

    monkeypatch.setattr(pilot, "_chosen", choose)
    heard = Heard()
    path = tmp_path / pilot.CHOICE
    for change in (None, b"", b"[3, 1, 5]", b'{"calls": [3, 1, 5]}'):
        if change is not None:
            path.write_bytes(change)
        for _ in range(2):
            assert pilot.choose(None, 3, None, tmp_path, heard) == ((3,), (1,), (4,))
    document = json.loads(path.read_text())
    document["calls"][0] = 2
    path.write_text(json.dumps(document))
    assert pilot.choose(None, 3, None, tmp_path, heard) == ((3,), (1,), (4,))
    assert len(chosen) == 5
    assert len(heard.warnings) == 4


def test_checkpoints_that_take_long_to_write_are_fewer(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(checkpoints, "write", lambda path, _: (written.append(path.name), pass_by(now, 10.0)))
    training = Counting()
    training.iterations = 1000
    usual = training.step
    training.step = lambda: (usual(), pass_by(now, 1.0))
    run_from_last(training, scratch_in(tmp_path))
    assert written == ["00000050.pt", "00000250.pt", "00000450.pt", "00000650.pt", "00000850.pt"]


def pass_by(now, seconds):
    now[0] += seconds
