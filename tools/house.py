"""Measure the structure of the source: `python -m tools.house [ROOM]` prints each figure beside its limit.

A room is a folder of `src/sdquant_cli`. With a room, only its own figures are printed, and what breaks a
limit is named; `tests/test_house.py` holds the whole house to the limits.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from radon.complexity import cc_visit

SOURCE = Path(__file__).parent.parent / "src" / "sdquant_cli"
TESTS = SOURCE.parent.parent / "tests"
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

LARGEST_ROOM = 0.17  # of all lines
MOST_PARAMETERS = 6
FUNCTIONS_WITH_MORE = 6
COMPLEXITY = 12
COMPREHENSION_DENSITY = 30  # per 1,000 non-blank lines of a room
ANY = 80
FILE_LINES = 400
FUNCTION_LINES = 60


@dataclass(frozen=True)
class Module:
    """A parsed module."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return str(self.path.relative_to(SOURCE))

    @property
    def room(self) -> str:
        """The folder the module lies in; `.` for modules beside the folders."""
        return self.path.relative_to(SOURCE).parts[0] if self.path.parent != SOURCE else "."

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        return (n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def _all_modules() -> tuple[Module, ...]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        found.append(Module(path, text, ast.parse(text)))
    return tuple(found)


def modules(room: str | None = None) -> list[Module]:
    """Return the modules of the source, or of one room."""
    return [module for module in _all_modules() if room in (None, module.room)]


def room_shares() -> dict[str, float]:
    """Return the share of all lines by room."""
    sizes: dict[str, int] = {}
    for module in modules():
        sizes[module.room] = sizes.get(module.room, 0) + module.lines
    total = sum(sizes.values())
    return {room: lines / total for room, lines in sizes.items()}


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of a function's parameters, without self and cls."""
    args = function.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def many_parameters(chosen: list[Module]) -> list[str]:
    """Name the functions with more than six parameters; commands, whose parameters are flags, count too."""
    return [
        f"{module.name}:{function.lineno} {function.name} ({parameters(function)})"
        for module in chosen
        for function in module.functions()
        if parameters(function) > MOST_PARAMETERS
    ]


def complex_functions(chosen: list[Module], above: int = COMPLEXITY) -> list[str]:
    """Name the functions whose cyclomatic complexity, comprehensions counted, exceeds the limit."""
    found = []
    for module in chosen:
        for block in cc_visit(module.text):
            for part in (block, *getattr(block, "methods", ())):
                if hasattr(part, "classname") and part.complexity > above:
                    found.append(f"{module.name}:{part.lineno} {part.name} ({part.complexity})")
    return sorted(set(found))


def comprehension_density(chosen: list[Module]) -> float:
    """Return comprehensions per 1,000 non-blank lines."""
    count = sum(isinstance(node, COMPREHENSIONS) for module in chosen for node in ast.walk(module.tree))
    lines = sum(1 for module in chosen for line in module.text.splitlines() if line.strip())
    return 1000 * count / max(lines, 1)


def any_uses(chosen: list[Module]) -> list[str]:
    """Name the places that use `Any`, imports left out."""
    return [
        f"{module.name}:{node.lineno}"
        for module in chosen
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name) and node.id == "Any"
    ]


def long_files(chosen: list[Module]) -> list[str]:
    return [f"{module.name} ({module.lines})" for module in chosen if module.lines > FILE_LINES]


def long_functions(chosen: list[Module]) -> list[str]:
    """Name the functions of more than sixty lines."""
    return [
        f"{module.name}:{function.lineno} {function.name} ({length})"
        for module in chosen
        for function in module.functions()
        if (length := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES
    ]


def named_in_tests() -> set[str]:
    """Return the modules that tests import, or name in a text such as a patched attribute's place."""
    names: set[str] = set()
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.update((node.value, node.value.rpartition(".")[0]))
    return names


def untested(chosen: list[Module]) -> list[str]:
    """Name the modules that have no test file of their name, and that no test names."""
    files = {path.name for path in TESTS.rglob("*.py")}
    named = named_in_tests()
    missing = []
    for module in chosen:
        stem = module.path.stem
        if stem in ("__init__", "__main__") or f"test_{stem}.py" in files:
            continue
        if "sdquant_cli." + module.name.removesuffix(".py").replace("/", ".") not in named:
            missing.append(module.name)
    return missing


def passing_store_and_events() -> list[str]:
    """Name the functions of `stages` that take both a store and events."""
    found = []
    for module in modules("stages"):
        for function in module.functions():
            names = {arg.arg for arg in (*function.args.args, *function.args.kwonlyargs)}
            if {"store", "events"} <= names:
                found.append(f"{module.name}:{function.lineno} {function.name}")
    return found


def main() -> None:
    """Print the figures of the house or of one room, and what breaks a limit."""
    room = sys.argv[1] if len(sys.argv) > 1 else None
    chosen = modules(room)
    for name, share in sorted(room_shares().items(), key=lambda item: -item[1]):
        if room in (None, name):
            density = comprehension_density(modules(name))
            print(f"{name:12} {share:6.1%} of lines, {density:5.1f} comprehensions per 1,000 lines")
    uses = any_uses(chosen)
    print(f"Any: {len(uses)} (all: at most {ANY})")
    checks = {
        f"functions with more than {MOST_PARAMETERS} parameters": many_parameters(chosen),
        f"complexity above {COMPLEXITY}": complex_functions(chosen),
        f"files above {FILE_LINES} lines": long_files(chosen),
        f"functions above {FUNCTION_LINES} lines": long_functions(chosen),
        "modules without a test": untested(chosen),
        "functions of stages with store and events": passing_store_and_events() if room is None else [],
    }
    for name, found in checks.items():
        print(f"{name}: {len(found)}")
        for place in found:
            print(f"  {place}")


if __name__ == "__main__":
    main()
