"""A command's flags are built from descriptions, and its values become a request."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from sdquant_cli.cli import app
from sdquant_cli.cli import stages as bodies
from sdquant_cli.cli.command import OptionsCommand, reflowed
from sdquant_cli.options.commands import COMMANDS
from sdquant_cli.options.option import Panel

GROUP = typer.main.get_command(app)
WIDTH = 80


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option_under_its_panel(name):
    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    positions = [result.stdout.find(f" {panel} ─") for panel in Panel]
    shown = [position for position in positions if position >= 0]
    assert shown == sorted(shown)
    for flag in COMMANDS[name].flags:
        if not flag.option.argument:
            assert flag.spelling in result.stdout


def test_the_summary_of_each_command_fits_its_line():
    lines = CliRunner().invoke(app, ["--help"], env={"COLUMNS": str(WIDTH)}).stdout.splitlines()
    commands = lines[lines.index("Commands:") + 1 :]
    assert [line.split()[0] for line in commands if line.strip()] == list(COMMANDS)
    assert not any("..." in line for line in commands)


def test_help_of_all_commands_imports_no_request():
    code = (
        "import sys\nfrom sdquant_cli.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {"pydantic", "rich", "yaml"}.isdisjoint(name.partition(".")[0] for name in done.stderr.split())


def test_paragraphs_are_reflowed():
    assert reflowed("one\n  two\n\nthree") == "one two\n\nthree"


def test_a_command_hands_its_request_and_the_rest_to_its_function():
    calls = []
    command = OptionsCommand("report", lambda *arguments: calls.append(arguments))
    command.main(["metrics/a", "--pictures", "3", "--store", "s3://b"], standalone_mode=False)
    [(request, call)] = calls
    assert (request.names, request.pictures) == (("metrics/a",), 3)
    assert (call.store, call.dry_run, call.json) == ("s3://b", False, False)


def test_commands_are_bound_to_functions_of_their_name():
    assert GROUP.commands["precalc-time"].body is bodies.precalc_time
    assert list(GROUP.commands) == list(COMMANDS)


@pytest.mark.parametrize(("command", "name"), [("show", "NAME"), ("quantize", "MODEL"), ("rm", "NAME")])
def test_a_missing_argument_is_named(command, name):
    result = CliRunner().invoke(app, [command, *(["--output", "x"] if command == "quantize" else [])])
    assert result.exit_code == 2
    assert result.stderr == f"sdquant: {name}: is required\n"
