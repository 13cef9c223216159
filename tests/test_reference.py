"""The reference of commands is what the options say."""

import pytest

from sdquant_cli.options.commands import COMMANDS
from tools import reference


def test_the_page_is_up_to_date():
    assert reference.PAGE.read_text() == reference.page(), "run python -m tools.reference"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_line(name):
    text = reference.PAGE.read_text()
    section = text.split(f"\n## sdquant {name}\n")[1].split("\n## ")[0]
    for flag in COMMANDS[name].flags:
        assert f"\n| `{flag.spelling}`" in section


def test_a_line_tells_value_default_and_meaning():
    lines = reference.section("calibrate", COMMANDS["calibrate"]).splitlines()
    assert "| `--drop` | number, ≥ 0, ≤ 1 |" in "\n".join(lines)
    mixed = next(line for line in lines if line.startswith("| `--mixed`"))
    assert mixed.startswith("| `--mixed`, `--no-mixed` | switch |  | Give more bits")
    rank = next(line for line in lines if line.startswith("| `--rank`"))
    assert rank.endswith("Only for methods that train the network as a whole. |")
