"""The application: commands by name, and errors as one line and an exit code."""

import os
import sys
from typing import Any

import typer

from ..version import __version__
from . import bench, demo, doctor, export, quantize, report, run, stages, store
from .command import Body, OptionsCommand, reflowed
from .errors import Group
from .execute import quiet_libraries
from .parallel import hush

COMMANDS: dict[str, Body] = {
    "sample": stages.sample,
    "precalc-time": stages.precalc_time,
    "sensitivity": stages.sensitivity,
    "calibrate": stages.calibrate,
    "generate": stages.generate,
    "evaluate": stages.evaluate,
    "quantize": quantize.quantize,
    "export": export.export,
    "bench": bench.bench,
    "report": report.report,
    "leaderboard": stages.leaderboard,
    "demo": demo.demo,
    "doctor": doctor.doctor,
    "run": run.run,
    "ls": store.ls,
    "show": store.show,
    "verify": store.verify,
    "gc": store.gc,
    "rm": store.rm,
    "tag": store.tag,
}


class Application(Group):
    """The group of all commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.help = reflowed(self.help or "")
        self.commands = {name: OptionsCommand(name, body) for name, body in COMMANDS.items()}


app = typer.Typer(
    name="sdquant",
    cls=Application,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes longer to import than all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def sdquant(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Quantize Stable Diffusion and keep its images.

    Stages, in order: sample, precalc-time, sensitivity, calibrate, generate, evaluate. Each reads the
    latest artifacts of the stages before it from a store and adds its own. A stage whose artifact exists
    computes nothing; an interrupted command resumes where it stopped. export writes the result as a
    folder that diffusers loads. quantize writes such a folder at once, without prompts or calibration.

    Exit codes: 0 done, 1 unexpected error, 2 usage, 3 input artifact missing or damaged, 4 gate not met,
    5 environment, 6 newer format, 130 interrupted or 143 terminated (resumable).

    Start with: sdquant demo
    """
    quiet_libraries()
    hush()


def main() -> None:
    """Entry point of the `sdquant` script."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        else:
            stream.reconfigure(errors="backslashreplace")
    app()
