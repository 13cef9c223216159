"""Checkpoints of a training in scratch beside its artifact: the last two, each written as a whole."""

import pickle
from pathlib import Path

import torch

from ..errors import EnvironmentProblem
from ..events import Events
from ..methods.training import Training
from ..store import Draft

EVERY = 50  # iterations; at most this much is done again after a kill
KEPT = 2


def run_from_last(training: Training, draft: Draft, events: Events) -> None:
    """Train to the end, from the last checkpoint if there is one."""
    _resume(training, draft.scratch, events)
    with events.task("calibrating", training.iterations, "iteration") as task:
        task.advance(training.iteration)
        while training.iteration < training.iterations:
            training.step()
            task.advance()
            if training.iteration % EVERY == 0 and training.iteration < training.iterations:
                _save(training, draft.scratch)
                draft.meter.save()
    training.finish()


def _resume(training: Training, folder: Path, events: Events) -> None:
    """Go on from the newest checkpoint that can be read, if there is any."""
    for path in sorted(folder.glob("*.pt"), reverse=True):
        try:
            training.load_state_dict(torch.load(path, weights_only=True))
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            events.warn(f"{path} is damaged and is left out")
        else:
            events.note(f"resuming at iteration {training.iteration}")
            return


def _save(training: Training, folder: Path) -> None:
    path = folder / f"{training.iteration:08d}.pt"
    partial = path.with_suffix(".partial")
    try:
        torch.save(training.state_dict(), partial)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise EnvironmentProblem(
            f"{partial}: {' '.join(str(error).split())}; run again once it can be written"
        ) from None
    partial.replace(path)
    for old in sorted(folder.glob("*.pt"))[:-KEPT]:
        old.unlink()
