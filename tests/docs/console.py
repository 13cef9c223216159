"""Run the code blocks of a documentation page, and compare what they print with what the page shows.

In a ```console block, lines that start with `$ ` are commands and the lines below each are its output.
`sdquant` runs in this process, anything else in a shell; a pipe passes stdout. A ```python block is executed,
and a block with a title is written to the file of that name. `<!-- not run: REASON -->` before a block leaves
it out.

The tutorial is the first page; each how-to goes on in a copy of the tutorial's folder.
`python -m tests.docs.console [PAGE...]` runs the tutorial and the how-tos named, by default all, and writes
their outputs into the pages.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from sdquant_cli.cli import app

ROOT = Path(__file__).parent.parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
HOW_TOS = sorted((ROOT / "docs" / "how-to").glob("*.md"))

SKIP = re.compile(r"<!-- not run:(.*)-->")
FENCE = re.compile(r"( *)```(\w*)(?: title=\"([^\"]+)\")?$")
PROGRESS = re.compile(r"^.*: \d+/\d+, .* left$\n?", re.MULTILINE)  # a terminal shows a bar that goes away

KEY = r"\b[0-9a-f]{20}\b"
# What differs from run to run or from machine to machine, and what stands for it.
VARYING = {
    KEY: r"([0-9a-f]{20})",
    r"\d{4}-\d\d-\d\dT[\d:]+(?:\+00:00|Z)": r"\S+",  # times
    r"\b\d{6,}\b|\d+(?=\s+published)": r"\d+",  # bytes
    r"\.\.\.": r".*?",
    r"\s+": r"\s+",
}
MEASURED = {r"-?\d+(?:\.\d+)*(?:e[-+]?\d+)?": r"-?\d+(?:\.\d+)*(?:e[-+]?\d+)?"}  # numbers beside a decimal


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page."""

    language: str
    title: str | None
    lines: tuple[str, ...]
    number: int  # of its first line in the page, from 1
    reason: str | None  # why it is not run; None: it is


@dataclass(frozen=True)
class Command:
    """A command of a console block, with the output that the page shows."""

    text: str
    output: str
    first: int  # lines of the page that hold the output, from 1
    last: int  # exclusive


def blocks_of(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    lines = page.splitlines()
    reason, index = None, 0
    while index < len(lines):
        if match := SKIP.search(lines[index]):
            reason = match[1].strip()
        elif match := FENCE.match(lines[index]):
            indent, start = match[1], index + 1
            end = lines.index(f"{indent}```", start)
            body = tuple(line.removeprefix(indent) for line in lines[start:end])
            yield Block(match[2], match[3], body, start + 1, reason)
            reason, index = None, end
        elif lines[index].strip():
            reason = None
        index += 1


def commands_of(block: Block) -> Iterator[Command]:
    """Yield the commands of a console block."""
    starts = [at for at, line in enumerate(block.lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(block.lines)], strict=True):
        after = start + 1
        while block.lines[after - 1].endswith("\\"):
            after += 1
        text = " ".join(line.rstrip("\\").strip() for line in block.lines[start:after]).removeprefix("$ ")
        yield Command(
            text, "\n".join(block.lines[after:end]).strip(), block.number + after, block.number + end
        )


def match(expected: str, output: str) -> list[str] | None:
    """Return the keys in an output that is as expected, apart from spacing, `...` and what varies; else None.

    Whole numbers are counts and must be equal, but for those in a line that has a decimal. A line `...`
    stands for any lines, up to where the lines after it are first found: nothing is tried twice.
    """
    if not expected.strip():
        return None if output.strip() else []
    parts = [part.strip() for part in re.split(r"^\.\.\.$", expected.strip(), flags=re.MULTILINE)]
    keys, rest = [], output.strip()
    for index, part in enumerate(parts):
        if not part:  # `...` at the beginning or the end
            continue
        pattern = r"\s+".join(_pattern(line) for line in part.splitlines() if line.strip())
        begins = r"\A" if index == 0 else r"(?:^|(?<=\s))"
        ends = r"\Z" if index == len(parts) - 1 else r"(?:$|(?=\s))"
        found = re.search(f"{begins}{pattern}{ends}", rest, re.MULTILINE)
        if found is None:
            return None
        keys += found.groups()
        rest = rest[found.end() :]
    return keys


def _pattern(line: str) -> str:
    """Return the regular expression of one line."""
    varying = VARYING | MEASURED if re.search(r"\d\.\d", line) else VARYING
    pieces, at = [], 0
    for token in re.finditer("|".join(f"({pattern})" for pattern in varying), line.strip()):
        pieces += [re.escape(line.strip()[at : token.start()]), list(varying.values())[token.lastindex - 1]]
        at = token.end()
    return "".join([*pieces, re.escape(line.strip()[at:])])


class Shell:
    """Commands run in the current folder, one after the other."""

    def __init__(self) -> None:
        self.code = 0  # of the command before

    def run(self, command: str) -> str:
        """Return the output of a command; AssertionError if the one before failed and nobody asked."""
        if command == "echo $?":
            code, self.code = self.code, 0
            return str(code)
        assert self.code == 0, f"exit code {self.code} before `{command}`"
        first, _, rest = command.partition(" | ")
        if first.startswith("sdquant "):
            result = CliRunner().invoke(app, shlex.split(first)[1:])
            if not isinstance(result.exception, SystemExit | None):
                raise result.exception
            self.code = result.exit_code
            return _shell(rest, result.stdout)[1] if rest else PROGRESS.sub("", result.output).strip()
        self.code, output = _shell(command)
        return output


def _shell(command: str, data: str = "") -> tuple[int, str]:
    """Return the exit code of a command of bash that reads `data`, and what it prints."""
    done = subprocess.run(["bash", "-c", command], input=data, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


def run_page(path: Path) -> Iterator[tuple[Command, str]]:
    """Run the blocks of a page in the current folder; yields each command with its output."""
    shell = Shell()
    for block in blocks_of(path.read_text()):
        if block.reason is not None:
            continue
        if block.title:
            Path(block.title).write_text("\n".join(block.lines) + "\n")
        elif block.language == "python":
            exec(compile("\n" * (block.number - 1) + "\n".join(block.lines), path, "exec"), {})
        elif block.language == "console":
            for command in commands_of(block):
                yield command, shell.run(command.text)
    assert shell.code == 0, f"{path.name}: the last command ended with {shell.code}"


@contextmanager
def tutorial_folder(parent: Path) -> Iterator[Path]:
    """Make the folder that the tutorial begins in, the current one within; return it."""
    folder = parent / TUTORIAL.stem
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    with chdir(folder):
        yield folder


@contextmanager
def how_to_folder(page: Path, tutorial: Path) -> Iterator[None]:
    """Make a copy of the tutorial's folder for a how-to beside it, the current one within."""
    folder = tutorial.parent / page.stem
    shutil.copytree(tutorial, folder, symlinks=True)
    with chdir(folder):
        yield


def updated(page: str, results: list[tuple[Command, str]]) -> str:
    """Return a page with the outputs of a run; those that match and have a `...` only get the new keys."""
    lines, keys = page.splitlines(), {}
    for command, output in reversed(results):
        found = match(command.output, output) if "..." in command.output else None
        if found is not None:
            keys |= dict(zip(re.findall(KEY, command.output), found, strict=True))
        else:
            lines[command.first - 1 : command.last - 1] = output.splitlines()
    return re.sub(KEY, lambda key: keys.get(key[0], key[0]), "\n".join(lines)) + "\n"


def main(names: list[str]) -> None:
    """Run pages in temporary folders and update them; stderr tells the CPU seconds of each command."""
    how_tos = [Path(name).resolve() for name in names] or HOW_TOS
    with tempfile.TemporaryDirectory() as parent:
        with tutorial_folder(Path(parent)) as tutorial:
            update(TUTORIAL)
        for page in how_tos:
            with how_to_folder(page, tutorial):
                update(page)


def update(page: Path) -> None:
    """Run a page and write its outputs into it."""
    results, started = [], time.process_time()
    for command, output in run_page(page):
        results.append((command, output))
        sys.stderr.write(f"{time.process_time() - started:6.1f} s  {command.text}\n")
        started = time.process_time()
    page.write_text(updated(page.read_text(), results))


if __name__ == "__main__":
    main(sys.argv[1:])
