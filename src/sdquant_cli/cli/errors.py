"""From errors to one line on stderr and an exit code."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import EnvironmentProblem, SdquantError

INTERRUPTED = 130
OUT_OF_MEMORY = (
    "out of memory; try a smaller --micro-batch or size of picture and, in calibrate, a smaller --batch-size "
    "with --accumulate, --checkpointing, --teacher-dtype bf16 or --train steps; --dry-run tells how much"
)


class Group(TyperGroup):
    """A command group that reports expected errors in one line each."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SdquantError as error:
            _complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _complain("interrupted; nothing is lost, the same command resumes")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            _complain(f"{error.filename or 'system'}: {error.strerror or error}")
            raise typer.Exit(EnvironmentProblem.exit_code) from None
        except (RuntimeError, MemoryError) as error:
            if not _is_of_memory(error):
                raise
            _complain(OUT_OF_MEMORY)
            raise typer.Exit(EnvironmentProblem.exit_code) from None


def _is_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch has no type for that on a CPU, and is not imported here."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return of_torch or isinstance(error, MemoryError)


def _complain(message: str) -> None:
    print(f"sdquant: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201


def request_of(cls: Any, **fields: Any) -> Any:
    """Build a stage's request; raises UsageProblem that names the flag and what it takes."""
    from pydantic import ValidationError

    from ..errors import UsageProblem

    try:
        return cls(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        # numbers in it are places within a list
        names = [part for part in first["loc"] if isinstance(part, str)]
        flag = "--" + ".".join(names).replace("_", "-")
        raise UsageProblem(
            f"{flag} {first.get('input')}: {first['msg'].removeprefix('Value error, ')}"
        ) from None
