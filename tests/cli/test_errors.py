"""From any error to one line and an exit code."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from sdquant_cli.cli import app
from sdquant_cli.cli.errors import Group, PlainCommand
from sdquant_cli.errors import NewerFormat, first_line


def failing(monkeypatch, error: BaseException):
    """`doctor` where its stage raises this."""

    def fail(*_):
        raise error

    monkeypatch.setattr("sdquant_cli.stages.doctor.examine", fail)
    return CliRunner().invoke(app, ["doctor"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (NewerFormat("of\n  tomorrow"), 6, "of tomorrow"),
        (NewerFormat(), 6, "NewerFormat"),
        (OSError(28, "No space left on device", "/x"), 5, "/x: No space left on device"),
        (OSError(), 5, "system: OSError"),
        (MemoryError(), 5, "out of memory; try"),
        (KeyError("name"), 1, "unexpected KeyError: 'name'; run again with SDQUANT_TRACEBACK=1"),
        (AssertionError(), 1, "unexpected AssertionError; run again"),
        (RecursionError("too deep"), 1, "unexpected RecursionError: too deep; run again"),
        (RuntimeError("first\nsecond"), 1, "unexpected RuntimeError: first; run again"),
        (ValueError("x" * 5000), 1, f"unexpected ValueError: {'x' * 100}...x"),
        (ValueError("\ud800"), 1, "unexpected ValueError: "),
        (KeyboardInterrupt(), 130, "interrupted; nothing is lost"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_any_error_is_one_line(monkeypatch, error, code, line):
    result = failing(monkeypatch, error)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(f"sdquant: {line}")
    assert result.stderr.count("\n") == 1


def test_the_traceback_is_shown_on_demand(monkeypatch):
    monkeypatch.setenv("SDQUANT_TRACEBACK", "1")
    result = failing(monkeypatch, KeyError("name"))
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback")
    assert "sdquant: unexpected KeyError" in result.stderr


@pytest.mark.parametrize(
    ("error", "line"), [(KeyError(), "KeyError"), (ValueError(" \n"), "ValueError"), (OSError("a\nb"), "a")]
)
def test_an_error_without_text_is_called_by_its_class(error, line):
    assert first_line(error) == line


PRINTS = """
import typer
from sdquant_cli.cli.errors import Group, PlainCommand

app = typer.Typer(cls=Group, pretty_exceptions_enable=False)

@app.callback()
def root(): pass

@app.command(cls=PlainCommand)
def prints():
    from sdquant_cli.cli.render import print_pairs
    for _ in range(10_000):
        print_pairs("a line that nobody reads", {"name": "value"})

app(["prints"])
"""


def test_a_reader_that_is_gone_ends_the_command_without_a_word():
    with subprocess.Popen(
        [sys.executable, "-c", PRINTS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141


def test_a_full_disk_behind_stdout_is_told():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", PRINTS], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 5
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_closed_streams_are_no_error():
    done = subprocess.run(
        f"{sys.executable} -m sdquant_cli --version >&- 2>&-", shell=True, check=False, timeout=60
    )
    assert done.returncode == 0


# -------------------------------------------------------------------------------- plain values


@pytest.fixture
def echo():
    """A command with one flag of each type, that says what it was given."""
    tried = typer.Typer(cls=Group, pretty_exceptions_enable=False)

    @tried.callback()
    def root() -> None: ...

    @tried.command(cls=PlainCommand)
    def command(
        name: str = "",
        number: int = 0,
        share: float = 0.0,
        store: str = typer.Option("", envvar="SDQUANT_STORE"),
    ) -> None:
        typer.echo(f"{name}|{number}|{share}|{store}")

    return lambda *words: CliRunner().invoke(tried, ["command", *words])


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--number", "１０"),
        ("--number", "1_0"),
        ("--number", "٣"),
        ("--number", "1.5"),
        ("--number", "9" * 5000),
        ("--number", "9" * 100),
        ("--share", "1_0"),
        ("--share", "１"),
        ("--share", "0x1"),
        ("--name", "\udcff"),
        ("--store", "\udcff"),
    ],
)
def test_a_value_that_is_not_plain_is_one_line_with_flag_and_value(echo, flag, value):
    result = echo(f"{flag}={value}")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"sdquant: {flag} {value.encode(errors='backslashreplace').decode()[:100]}"
    )
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 300


def test_plain_values_arrive_as_they_are(echo):
    assert echo("--name", "a_b １", "--number=-12", "--share", "1.5e-3").stdout == "a_b １|-12|0.0015|\n"
    assert echo("--share", "inf").stdout == "|0|inf|\n"  # a request says what is too large


def test_a_tilde_that_the_shell_left_is_the_home_folder(echo, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert echo("--name=~/x", "--store=s3://b/~x").stdout == "/home/somebody/x|0|0.0|s3://b/~x\n"
    monkeypatch.setenv("SDQUANT_STORE", "~/store")
    assert echo().stdout == "|0|0.0|/home/somebody/store\n"
