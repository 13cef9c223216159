import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sdquant_cli.cli import app

ROOT = Path(__file__).parent.parent
COMMANDS = typer.main.get_command(app).commands


def test_import_contracts_hold():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom sdquant_cli.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert {"torch", "diffusers", "transformers", "zarr", "numpy"}.isdisjoint(loaded)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_is_in_the_docs(name):
    text = COMMANDS[name].help
    assert f"Example: sdquant {name}" in text
    assert f"sdquant {name}" in (ROOT / "docs" / "reference" / "commands.md").read_text()


def test_the_project_names_no_registry():
    pattern = re.compile(r"index-url\s*=|registry\s*=|https?://[^ ]+\.(whl|deb|tgz)")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in tracked:
        path = ROOT / name
        if (
            path.suffix in {".toml", ".md", ".yml", ".json", ""}
            and path.is_file()
            and path.stat().st_size < 1e6
        ):
            assert not pattern.search(path.read_text(errors="ignore")), name
