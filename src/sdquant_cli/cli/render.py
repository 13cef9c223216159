"""Terminal output, the only door to rich: data on stdout, everything else on stderr."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as BarState
from rich.text import Text

from ..events import Events, Silence, Task
from ..ranks import LOGS, current

if TYPE_CHECKING:
    from ..manifests import MetricsFacts


class _Console(Console):
    """A console that leaves a broken pipe to its caller."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled, where rich would exit."""
        raise


_stderr = _Console(stderr=True, highlight=False, soft_wrap=True)
_stdout = _Console(highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    """A column of steps per second, or of seconds per step."""

    def render(self, task: BarState) -> Text:
        """Return the column's text."""
        speed = task.finished_speed or task.speed
        return Text(_pace(speed, task.fields["unit"]) if speed else "")


def _pace(rate: float, unit: str) -> str:
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}"


class _BarTask:
    """Progress as a bar on a terminal."""

    def __init__(self, progress: Progress, name: str, total: int, unit: str, done: int) -> None:
        self._progress = progress
        self._id = progress.add_task(name, total=total, completed=done, unit=unit)

    def advance(self, steps: int = 1) -> None:
        """Move the progress on."""
        self._progress.advance(self._id, steps)


class _LineTask:
    """Progress where stderr is not a terminal: a line for each tenth, with the pace since the last line."""

    def __init__(self, name: str, total: int, unit: str, done: int) -> None:
        self._name, self._total, self._unit = name, max(1, total), unit
        self._done = self._printed = done
        self._then = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Move the progress on."""
        self._done += steps
        if 10 * self._done // self._total > 10 * self._printed // self._total:
            now = time.monotonic()
            rate = (self._done - self._printed) / max(1e-9, now - self._then)
            self._printed, self._then = self._done, now
            left = (self._total - self._done) / rate
            pace = _pace(rate, self._unit)
            _stderr.print(f"{self._name}: {self._done}/{self._total}, {pace}, {left:.0f} s left")


class Terminal:
    """Events on stderr: bars on a terminal, lines in a log."""

    @contextmanager
    def task(self, name: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Show the progress of a task of `total` steps while the context is open."""
        if not _stderr.is_terminal:
            yield _LineTask(name, total, unit, done)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=_stderr, transient=True) as progress:
            yield _BarTask(progress, name, total, unit, done)

    def note(self, message: str) -> None:
        """Print a remark."""
        _stderr.print(message, style="dim", markup=False)

    def warn(self, message: str) -> None:
        """Print a warning."""
        _stderr.print(f"warning: {message}", style="yellow", markup=False)


class OtherRank(Silence):
    """Events of a rank that is not the first and has no log: warnings alone."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def warn(self, message: str) -> None:
        """Print a warning, with the rank."""
        Terminal().warn(f"rank {self._rank}: {message}")


def terminal() -> Events:
    """Return the events of this rank: the first one's bars are of all ranks, the others' go to their logs."""
    rank = current()
    return Terminal() if rank.is_first or LOGS in os.environ else OtherRank(rank.rank)


def print_json(document: object) -> None:
    """Print a JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


def print_pairs(title: str, pairs: Mapping[str, object]) -> None:
    """Print a title and named values, one a line, to stdout."""
    _stdout.print(title, markup=False)
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        _stdout.print(f"  {name:<{width}}  {_plain(value)}", markup=False)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(map(_plain, value[:3]))
        return shown + (f" ... ({len(value)})" if len(value) > 3 else "")
    if isinstance(value, dict):
        shown = ", ".join(f"{k} {_plain(v)}" for k, v in list(value.items())[:3])
        return shown + (f" ... ({len(value)})" if len(value) > 3 else "")
    return str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print left-aligned columns to stdout, never cut off."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        _stdout.print(line.rstrip(), markup=False)


def print_metrics(facts: "MetricsFacts") -> None:
    """Print metric summaries as a table to stdout, and skipped ones below it by reason."""
    from ..report.headline import skipped
    from ..report.numbers import interval, mean, median

    rows = [
        [
            name,
            mean(summary),
            interval(summary),
            median(summary),
            mean(facts.floor.get(name)),
            mean(facts.itself.get(name)),
            str(summary.n),
        ]
        for name, summary in facts.metrics.items()
        if summary.skipped is None
    ]
    print_table(["metric", "mean", "95% interval", "median", "other seed", "self-baseline", "N"], rows)
    for reason, names in skipped([facts]).items():
        _stdout.print(f"{', '.join(names)}  skipped ({reason})", markup=False)
