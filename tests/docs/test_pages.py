"""The pages agree with the code and with each other."""

import ast
import re

import pytest
import yaml

from sdquant_cli.options.commands import COMMANDS
from tests.docs.console import ROOT

DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "sdquant_cli"


def names_of_equations() -> list[str]:
    page = (DOCS / "explanation" / "architecture.md").read_text()
    table = page.partition("## From equations to functions")[2].partition("\n## ")[0]
    return re.findall(r"`([a-z_.0-9]+\.\w+)`", table)


@pytest.mark.parametrize("name", names_of_equations())
def test_the_functions_that_the_equation_map_names_exist(name):
    module, _, function = name.rpartition(".")
    tree = ast.parse((SOURCE / f"{module.replace('.', '/')}.py").read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize(
    "page",
    [
        "explanation/architecture.md",
        *(f"explanation/adding-a-{x}.md" for x in ("method", "metric", "family")),
    ],
)
def test_the_files_that_explanations_name_exist(page):
    names = re.findall(r"`((?:\w+/)+(?:\w+\.py)?|\w+\.py)`", (DOCS / page).read_text())
    roots = (ROOT, SOURCE, SOURCE / "calibration", SOURCE / "cli")
    assert names
    assert [name for name in names if not any((root / name).exists() for root in roots)] == []


def test_the_architecture_names_every_room():
    page = (DOCS / "explanation" / "architecture.md").read_text()
    rooms = [path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"| `{room}/` |" not in page] == []


def test_the_readme_has_the_commands_that_must_work_as_written():
    readme = (ROOT / "README.md").read_text()
    for command in (
        "uv run pytest",
        "sdquant sample --prompts coco.txt --per-prompt 1",
        "sdquant calibrate --bits w4a8 --mixed",
        "sdquant evaluate --against fp",
    ):
        assert command in readme


def commands_in(text: str) -> list[tuple[str, str]]:
    """Commands of a page at the start of a line or within backquotes, each as its name and the rest."""
    joined = re.sub(r"\\\n\s+", " ", text)
    pattern = r"(?:^\s*(?:\$ )?|`)sdquant (" + "|".join(COMMANDS) + r")\b([^`#|\n]*)"
    return re.findall(pattern, joined, re.MULTILINE)


def test_commands_in_the_pages_have_the_options_that_they_name():
    unknown = []
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for name, rest in commands_in(page.read_text()):
            parts = rest.split('"')  # between quotes stand a leaderboard's rows, with options of calibrate
            for words, command in ((parts[::2], name), (parts[1::2], "calibrate")):
                known = {flag.spelling for flag in COMMANDS[command].flags}
                known |= {f"--no-{spelling[2:]}" for spelling in known} | {"--help"}
                wrong = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(words))) - known
                unknown += [(page.name, command, flag) for flag in sorted(wrong)]
    assert unknown == []


def test_a_command_within_a_page_is_found():
    text = "Run `sdquant ls --json`:\n\n$ sdquant sample \\\n    --limit 4  # few\n"
    assert commands_in(text) == [("ls", " --json"), ("sample", "  --limit 4  ")]


def test_links_of_pages_outside_the_site_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "examples").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())]
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_the_site_fetches_nothing():
    config = (ROOT / "mkdocs.yml").read_text()
    assert re.findall(r"https?://", config) == []
    assert "  font: false" in config
    assert [
        page.name for page in DOCS.rglob("*.md") if re.search(r"!\[[^]]*\]\(https?:", page.read_text())
    ] == []


def test_every_page_of_the_site_is_in_its_navigation():
    _, _, nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")

    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [page for value in values for page in pages(value)]

    assert sorted(pages(yaml.safe_load(nav))) == sorted(
        str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")
    )
