"""Errors with a message for the user; the command line prints it on one line and exits with the code.

SdquantError                     1
├── UsageProblem                 2   an invalid flag or input file
├── MissingArtifact              3   an input artifact is missing: names the command that makes it
├── DamagedArtifact              3   stored bytes differ from those that were published
├── GateFailed                   4   a metric is outside the bound that --gate sets
├── EnvironmentProblem           5   a missing file, device or permission; a full disk
└── NewerFormat                  6   written by a newer sdquant

Standard library only.
"""


class SdquantError(Exception):
    """An error whose message is meant for the user: one line, no traceback."""

    exit_code = 1


class UsageProblem(SdquantError):
    """A flag or an input file is invalid."""

    exit_code = 2


class MissingArtifact(SdquantError):
    """An input artifact is not in the store."""

    exit_code = 3


class DamagedArtifact(SdquantError):
    """Stored bytes differ from those that were published."""

    exit_code = 3


class GateFailed(SdquantError):
    """A metric is outside its bound."""

    exit_code = 4


class EnvironmentProblem(SdquantError):
    """Something outside sdquant is missing or fails: a file, a device, a permission, disk space."""

    exit_code = 5


class NewerFormat(SdquantError):
    """The store or artifact was written by a newer sdquant."""

    exit_code = 6


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class's name if it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
