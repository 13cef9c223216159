import tomllib
from pathlib import Path

import sdquant_cli
from sdquant_cli.version import __version__


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert sdquant_cli.__version__ == __version__ == project["version"]
