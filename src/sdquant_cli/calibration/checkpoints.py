"""Checkpoints of a calibration, in a scratch folder beside its artifact: finished work is not done twice.

Each file is written whole, with its sha256. A damaged one is ignored with a warning.
"""

import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import EnvironmentProblem
from ..events import Events
from ..ranks import broadcast, current
from ..sealed import is_intact, remove_file, write_file

EVERY = 50  # iterations between checkpoints, unless they take long to write
PACE = 20  # times what it took to write the last one: the least time until the next
KEPT = 2

State = dict[str, Any]  # tensors, numbers, and dictionaries of them


class Trainable(Protocol):
    """A training that can stop after any iteration and continue from its state."""

    iterations: int
    iteration: int

    def step(self) -> None:
        """Make one update."""

    def finish(self) -> None:
        """Put the result in place, after the last iteration."""

    def state_dict(self) -> State:
        """Return everything that the training needs to continue."""

    def load_state_dict(self, state: State) -> None:
        """Continue from the result of `state_dict`."""


@dataclass(frozen=True)
class Scratch:
    """A folder for finished work, which stays until the artifact is published."""

    folder: Path
    save_cost: Callable[[], None]  # keeps the seconds and the memory of the work so far
    events: Events

    def load(self, name: str) -> State | None:
        """Return the state saved under a name; None if there is none, or it is damaged."""
        path = self.folder / name
        return read(path, self.events) if path.exists() else None

    def save(self, name: str, state: State) -> None:
        """Save a state under a name, and the cost so far."""
        write(self.folder / name, state)
        self.save_cost()


def resumable(
    scratch: Scratch,
    names: Iterable[str],
    run: Callable[[int], State],
    replay: Callable[[State], None],
) -> Iterator[State]:
    """Yield the state after each named step: of `run(index)`, or saved by an earlier run and replayed."""
    for index, name in enumerate(names):
        state = scratch.load(name)
        if state is None:
            state = run(index)
            scratch.save(name, state)
        else:
            replay(state)
        yield state


def run_from_last(training: Trainable, scratch: Scratch) -> None:
    """Train to the end, from the last checkpoint if there is one.

    A checkpoint holds all that came before it, so that the last one alone is read.
    """
    _resume(training, scratch)
    events, due = scratch.events, time.monotonic()
    with events.task("calibrating", training.iterations, "iteration", training.iteration) as task:
        while training.iteration < training.iterations:
            training.step()
            task.advance()
            is_last = training.iteration == training.iterations
            is_due = current().is_first and time.monotonic() >= due
            if training.iteration % EVERY == 0 and not is_last and is_due:
                due = _checkpoint(training, scratch)
    training.finish()


def _checkpoint(training: Trainable, scratch: Scratch) -> float:
    """Write a checkpoint in place of the oldest; return the time, by the monotonic clock, of the next."""
    began = time.monotonic()
    scratch.save(f"{training.iteration:08d}.pt", training.state_dict())
    for old in _checkpoints(scratch)[KEPT:]:
        remove_file(old)
    ended = time.monotonic()
    return ended + PACE * (ended - began)


def _resume(training: Trainable, scratch: Scratch) -> None:
    """Load the newest checkpoint of the first rank that can be read, if there is any."""
    state = broadcast(_newest(scratch) if current().is_first else None)
    if state is not None:
        training.load_state_dict(state)
        scratch.events.note(f"resuming at iteration {training.iteration}")


def _newest(scratch: Scratch) -> State | None:
    for path in _checkpoints(scratch):
        state = scratch.load(path.name)
        if state is not None:
            return state
    return None


def _checkpoints(scratch: Scratch) -> list[Path]:
    """Return the checkpoints of a training, the newest first."""
    return sorted(scratch.folder.glob("[0-9]*.pt"), reverse=True)


def read(path: Path, events: Events) -> State | None:
    """Return the state in a checkpoint; None, with a warning, if its bytes have changed since."""
    if is_intact(path):
        with suppress(OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            device = "cpu" if current().count > 1 else None  # other ranks have devices of their own
            state: State = torch.load(path, weights_only=True, map_location=device)
            return state
    events.warn(f"{path} is damaged and is ignored")
    return None


def write(path: Path, state: State) -> None:
    """Write a checkpoint as a whole: the file has all its bytes, or does not exist."""
    try:
        write_file(path, partial(torch.save, state))
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise EnvironmentProblem(
            f"{path}: {' '.join(str(error).split())}; run again once it can be written"
        ) from None
