"""The console blocks of tutorial and how-tos do what their pages show."""

import pytest

from tests.docs.console import (
    HOW_TOS,
    ROOT,
    TUTORIAL,
    Shell,
    blocks_of,
    commands_of,
    how_to_folder,
    match,
    run_page,
    tutorial_folder,
    updated,
)


def check(page):
    """Run the blocks of a page, each of which has to print what the page shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SDQUANT_STORE", raising=False)
        for command, output in run_page(page):
            place = f"{page.relative_to(ROOT)}:{command.first}"
            assert match(command.output, output) is not None, f"{place}: `{command.text}` printed\n{output}"


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """The folder in which the tutorial ran."""
    with tutorial_folder(tmp_path_factory.mktemp("pages")) as folder:
        check(TUTORIAL)
    return folder


@pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.stem)
def test_the_blocks_print_what_the_pages_show(page, tutorial):
    with how_to_folder(page, tutorial):
        check(page)


@pytest.mark.parametrize("page", [TUTORIAL, *HOW_TOS], ids=lambda page: page.stem)
def test_what_is_not_run_says_why(page):
    blocks = list(blocks_of(page.read_text()))
    assert blocks
    assert all(block.reason != "" for block in blocks)
    for block in blocks:
        assert block.language, f"line {block.number}: a block without a language"
        if block.language == "console":
            assert block.lines[0].startswith("$ "), f"line {block.number}: no command"


PAGE = """Text.

```console
$ echo one \\
    two
one two
$ false
$ echo $?
1
```

<!-- not run: needs a GPU -->
```console
$ rm -r /
```
"""


def test_a_page_is_run_command_by_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert [(command.text, output) for command, output in run_page(page)] == [
        ("echo one two", "one two"),
        ("false", ""),
        ("echo $?", "1"),
    ]
    assert [block.reason for block in blocks_of(PAGE)] == [None, "needs a GPU"]


def test_a_failure_that_the_page_does_not_show_is_one():
    shell = Shell()
    shell.run("false")
    with pytest.raises(AssertionError, match="exit code 1 before"):
        shell.run("true")


@pytest.mark.parametrize(
    ("expected", "output", "equal"),
    [
        ("psnr  25.74  8", "psnr 1.5e-05   8\n", True),
        ("psnr  25.74  8", "snr 25.74 8", False),
        ("images  8", "images 9", False),
        ("torch 2.15.0", "torch 2.14.3", True),
        ("bytes 123456", "bytes 654321", True),
        ("images/" + "0" * 20, "images/" + "abcde" * 4, True),
        ("first\n...\nlast", "first\n1\n2\nlast", True),
        ("first\n...\nlast", "first\nlast", True),
        ("first\n...\nlast", "first\n1\n2", False),
        ("", "a line", False),
        ("x  0.5\n...\n" * 30 + "end", "x  1.5\n" * 300 + "other", False),  # at once
    ],
)
def test_what_varies_is_left_out_of_the_comparison(expected, output, equal):
    assert (match(expected, output) is not None) == equal


def test_outputs_that_differ_are_written_into_the_page():
    (block, _) = blocks_of(PAGE)
    results = list(zip(commands_of(block), ["one two", "new", "2"], strict=True))
    assert updated(PAGE, results) == PAGE.replace("$ false\n", "$ false\nnew\n").replace("\n1\n", "\n2\n")


def test_keys_of_a_page_are_those_of_its_last_run():
    old, new = "a" * 20, "b" * 20
    page = f"Of images/{old}:\n\n```console\n$ show\nimages/{old}\n...\n```\n"
    (command,) = commands_of(next(blocks_of(page)))
    assert updated(page, [(command, f"images/{new}\n8 files")]) == page.replace(old, new)
