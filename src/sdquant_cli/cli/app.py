"""The application: commands by name, and errors as one line and an exit code."""

import os
import sys

import typer

from ..version import __version__
from . import (
    bench,
    calibrate,
    demo,
    doctor,
    evaluate,
    export,
    generate,
    leaderboard,
    precalc_time,
    report,
    run,
    sample,
    sensitivity,
    store,
)
from .errors import Command, Group
from .execute import quiet_libraries

app = typer.Typer(
    name="sdquant",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def sdquant(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Make a Stable Diffusion model small and fast while its pictures stay the same pictures.

    The stages, in order: sample, precalc-time, sensitivity, calibrate, generate, evaluate. Each
    reads the latest artifacts of the one before from a store and adds its own; run twice, a stage
    computes nothing the second time; interrupted, the same command resumes. `export` writes the
    result as a folder that diffusers loads.

    Exit codes: 0 done, 1 unexpected, 2 usage, 3 input artifact missing or damaged, 4 gate not met,
    5 environment, 6 newer format, 130 interrupted or 143 terminated and resumable.

    Start with: sdquant demo
    """
    quiet_libraries()


for _name, _body in (
    ("sample", sample.sample),
    ("precalc-time", precalc_time.precalc_time),
    ("sensitivity", sensitivity.sensitivity),
    ("calibrate", calibrate.calibrate),
    ("generate", generate.generate),
    ("evaluate", evaluate.evaluate),
    ("export", export.export),
    ("bench", bench.bench),
    ("report", report.report),
    ("leaderboard", leaderboard.leaderboard),
    ("demo", demo.demo),
    ("doctor", doctor.doctor),
    ("run", run.run),
    ("ls", store.ls),
    ("show", store.show),
    ("verify", store.verify),
    ("rm", store.rm),
    ("tag", store.tag),
):
    app.command(_name, cls=Command)(_body)


def main() -> None:
    """Entry point of the `sdquant` script."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        else:
            stream.reconfigure(errors="backslashreplace")
    app()
