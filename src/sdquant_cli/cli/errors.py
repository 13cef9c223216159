"""Errors become one line on stderr and an exit code."""

import contextlib
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import EnvironmentProblem, SdquantError, UsageProblem, first_line
from ..interrupt import last_words
from ..paths import plain
from ..ranks import current

if TYPE_CHECKING:
    from pydantic import BaseModel
    from typer._click.core import Context, Parameter  # Typer's own copy of click

Request = TypeVar("Request", bound="BaseModel")
BROKEN_PIPE = 141  # as a process ends that SIGPIPE kills
TRACEBACK = "SDQUANT_TRACEBACK"
OUT_OF_MEMORY = (
    "out of memory; try a smaller --micro-batch or image size and, for calibrate, a smaller --batch-size, "
    "--accumulate, --checkpointing, --teacher-dtype bf16 or --train steps; --dry-run shows the memory needed"
)
_Usage: Any = typer.BadParameter.__base__  # an unknown or missing flag: typer shows the usage
_NUMBER = re.compile(r"[-+.\w]{1,40}", re.ASCII)
_LONG_WORD = re.compile(r"(\S{100})\S{100,}(\S{20})")


class Group(TyperGroup):
    """A command group that turns any error of a command into one line and an exit code."""

    def invoke(self, ctx: "Context") -> object:
        """Run the command named on the command line; raises typer.Exit with the code of an error."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as error:
            words, code = last_words(error)
        except BrokenPipeError:
            _drop_output()
            raise typer.Exit(BROKEN_PIPE) from None
        except Exception as error:
            if isinstance(error, typer.Exit | typer.Abort | _Usage):
                raise
            if os.environ.get(TRACEBACK):
                traceback.print_exc()
            words, code = _ending(error)
        _complain(words)
        raise typer.Exit(code)


class PlainCommand(TyperCommand):
    """A command that takes plain text and numbers in plain digits only."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:
        """Parse words into `ctx.params`; raises UsageProblem that names the flag and its value."""
        typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        try:
            rest = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if error.param is None or error.param.name not in typed:
                raise UsageProblem(error.format_message()) from None
            if typed[error.param.name] is None:
                raise UsageProblem(f"{_flag(error.param)}: is required") from None
            message = error.message.removeprefix("Value error, ")
            raise UsageProblem(f"{_flag(error.param)} {typed[error.param.name]}: {message}") from None
        for param in self.params:
            value = ctx.params.get(param.name)
            try:
                ctx.params[param.name] = _plain(value, typed.get(param.name))
            except ValueError as error:
                raise UsageProblem(f"{_flag(param)} {typed.get(param.name, value)}: {error}") from None
        return rest


def _flag(param: "Parameter") -> str:
    """Return a parameter's name as it is typed."""
    return param.opts[0] if param.opts[0].startswith("-") else param.name.upper()


def _plain(value: object, typed: object) -> object:
    """Return a parsed value; raises ValueError for text that is not plain, or digits that are not ASCII."""
    if isinstance(value, list):
        return [_plain(item, None) for item in value]
    if isinstance(value, Path):
        return plain(value)
    if type(value) is str:  # not one of an enumeration
        return plain(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and isinstance(typed, str) and ("_" in typed or not _NUMBER.fullmatch(typed)):
        raise ValueError("expected a number in plain digits")
    return value


def _ending(error: Exception) -> tuple[str, int]:
    """Return the line and the exit code of an error."""
    if isinstance(error, SdquantError):
        return str(error) or type(error).__name__, error.exit_code
    if _is_out_of_memory(error):
        return OUT_OF_MEMORY, EnvironmentProblem.exit_code
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or first_line(error)}", (
            EnvironmentProblem.exit_code
        )
    name, line = type(error).__name__, first_line(error)
    what = name if line == name else f"{name}: {line}"
    return f"unexpected {what}; run again with {TRACEBACK}=1 for the traceback and report it", 1


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out; torch has no type for that on a CPU, and is not imported here."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return of_torch or isinstance(error, MemoryError)


def _drop_output() -> None:
    """Discard what is still to be written: the reader of stdout is gone."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


def _complain(message: str) -> None:
    line = _LONG_WORD.sub(r"\1...\2", " ".join(message.split()))
    print(f"sdquant: {_who()}{line}", file=sys.stderr)  # noqa: T201


def _who() -> str:
    """Return the beginning of what ranks tell that are not the first."""
    with contextlib.suppress(UsageProblem):
        rank = current()
        return "" if rank.is_first else f"rank {rank.rank}: "
    return ""


def request_of(cls: "type[Request]", **fields: object) -> "Request":
    """Return a command's request; raises UsageProblem that names the flag and what it takes."""
    from pydantic import ValidationError

    from ..options.base import first_problem

    try:
        return cls(**fields)
    except ValidationError as error:
        names, value, message = first_problem(error)
        flag = "--" + ".".join(names).replace("_", "-")
        raise UsageProblem(f"{flag} {value}".strip() + f": {message}") from None
