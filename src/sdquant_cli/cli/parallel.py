"""Commands under torchrun: one of several ranks runs the same command, and the first one speaks for all."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from .. import ranks
from ..paths import plain
from ..version import __version__

if TYPE_CHECKING:
    from ..options.base import Fields
    from ..options.commands import CommandOptions
    from .command import Invocation


def hush() -> None:
    """Drop what a rank that is not the first prints; what it tells goes to its log, if it has one.

    Raises UsageProblem for variables that are not torchrun's, and OSError for a log that cannot be written.
    """
    rank = ranks.current()
    if rank.is_first:
        return
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    if folder := os.environ.get(ranks.LOGS):
        file = plain(Path(folder)) / f"rank-{rank.rank:05d}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        sys.stderr = file.open("a", buffering=1)


def together(options: "CommandOptions", call: "Invocation") -> AbstractContextManager[None]:
    """Return the context in which a command runs: with the other ranks, or as if there were none."""
    return nullcontext() if _is_shared(options, call) else ranks.alone()


def _is_shared(options: "CommandOptions", call: "Invocation") -> bool:
    return options.is_stage and not call.dry_run


def takes_part(options: "CommandOptions", request: "Fields", call: "Invocation") -> bool:
    """Tell if this rank runs a command: each runs a stage, the first alone anything else.

    Raises UsageProblem, on all ranks, that names a flag whose value differs between them.
    """
    rank = ranks.current()
    if rank.count == 1 or not _is_shared(options, call):
        return rank.is_first
    values = {flag.spelling: getattr(request, flag.name, None) for flag in options.request_flags}
    ranks.agree({"sdquant": __version__, **values, "--store": call.store})
    return True
