"""Checkpoints of a training in scratch beside its artifact: the last two, each whole, with its sha256."""

import pickle
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import EnvironmentProblem
from ..events import Events
from ..sealed import is_intact, remove_file, write_file
from ..store import Draft
from .distillation import Training

EVERY = 50  # iterations; at most this much is done again after a kill
KEPT = 2


def run_from_last(training: Training, draft: Draft, events: Events) -> None:
    """Train to the end, from the last checkpoint if there is one."""
    _resume(training, draft.scratch, events)
    with events.task("calibrating", training.iterations, "iteration", training.iteration) as task:
        while training.iteration < training.iterations:
            training.step()
            task.advance()
            if training.iteration % EVERY == 0 and training.iteration < training.iterations:
                _save(training, draft.scratch)
                draft.meter.save()
    training.finish()


def _resume(training: Training, folder: Path, events: Events) -> None:
    """Go on from the newest checkpoint that can be read, if there is any."""
    for path in sorted(folder.glob("[0-9]*.pt"), reverse=True):
        if (state := read(path, events)) is not None:
            training.load_state_dict(state)
            events.note(f"resuming at iteration {training.iteration}")
            return


def _save(training: Training, folder: Path) -> None:
    write(folder / f"{training.iteration:08d}.pt", training.state_dict())
    for old in sorted(folder.glob("[0-9]*.pt"))[:-KEPT]:
        remove_file(old)


def read(path: Path, events: Events) -> Any:
    """Return what was written to a checkpoint; None, with a warning, if its bytes have changed since."""
    if is_intact(path):
        with suppress(OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return torch.load(path, weights_only=True)
    events.warn(f"{path} is damaged and is left out")
    return None


def write(path: Path, state: object) -> None:
    """Write a checkpoint as a whole: it is there with all its bytes, or not at all."""
    try:
        write_file(path, partial(torch.save, state))
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise EnvironmentProblem(
            f"{path}: {' '.join(str(error).split())}; run again once it can be written"
        ) from None
