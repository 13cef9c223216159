"""Write `docs/reference/commands.md` from the commands and options: `python -m tools.reference`.

The page begins with `tools/commands.template.md`; a section per command follows.
"""

import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sdquant_cli.cli.app import COMMANDS as BODIES
from sdquant_cli.cli.command import reflowed
from sdquant_cli.options.commands import COMMANDS, CommandOptions
from sdquant_cli.options.option import Flag, Panel
from sdquant_cli.options.values import LARGEST

TEMPLATE = Path(__file__).parent / "commands.template.md"
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "commands.md"
NO_BOUND = {LARGEST, -LARGEST, 2**63 - 1}  # bounds that only keep numbers in range


def page() -> str:
    """Return the whole page."""
    sections = [section(name, options) for name, options in COMMANDS.items()]
    return "\n\n".join([TEMPLATE.read_text().rstrip(), *sections]) + "\n"


def section(name: str, options: CommandOptions) -> str:
    """Return a command's section: what it does, examples, and a table of options per panel."""
    paragraphs = reflowed(inspect.getdoc(BODIES[name]) or "").split("\n\n")
    examples = [text.removeprefix("Example: ") for text in paragraphs if text.startswith("Example: ")]
    text = [paragraph for paragraph in paragraphs if not paragraph.startswith("Example: ")]
    parts = [f"## sdquant {name}", *text, "\n".join(["```bash", *examples, "```"])]
    types = field_types(options)
    for panel, flags in groupby(options.flags, key=lambda flag: flag.option.panel):
        if panel is not Panel.EVERYDAY:
            parts.append(f"**{panel}**")
        rows = [row(flag, types[flag.name]) for flag in flags]
        parts.append("\n".join(["| option | value | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts)


def field_types(options: CommandOptions) -> dict[str, str]:
    """Return what each option of a command takes, in words."""
    schema = options.request.model_json_schema()
    types = {name: words_of(field, schema) for name, field in schema.get("properties", {}).items()}
    for flag in options.shared:
        shared = TypeAdapter(flag.annotation).json_schema()
        types[flag.name] = words_of(shared, shared)
    return types


def words_of(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return what a field of a JSON schema takes, in words."""
    if "$ref" in field:
        return words_of(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in field:
        return words_of(next(part for part in field["anyOf"] if part.get("type") != "null"), schema)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return words_of(field["items"], schema)
    if field["type"] in ("integer", "number"):
        return ", ".join([field["type"], *bounds(field)])
    return {"boolean": "switch", "string": field.get("format", "text")}[field["type"]]


def bounds(field: dict[str, Any]) -> Iterator[str]:
    """Yield the bounds of a number, but for those that only keep it in range."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for name, sign in signs.items():
        if name in field and field[name] not in NO_BOUND:
            bound = field[name]
            yield f"{sign} {bound:,.0f}" if bound == int(bound) and bound < 1e9 else f"{sign} {bound:g}"


def row(flag: Flag, value: str) -> str:
    """Return a flag's line of the table."""
    option = flag.option
    spelling = f"`{flag.spelling}`"
    if option.negative:
        spelling += f", `--no-{flag.spelling.removeprefix('--')}`"
    notes = [re.sub(r"(--[a-z][-a-z]*)", r"`\1`", option.help)]
    if option.needs is not None:
        notes.append(f"Only for {option.needs}.")
    if option.envvar:
        notes.append(f"Environment variable: `{option.envvar}`.")
    return f"| {spelling} | {value} | {default_words(flag)} | {' '.join(notes)} |"


def default_words(flag: Flag) -> str:
    """Return a flag's default as the page shows it."""
    if flag.required:
        return "required"
    if isinstance(flag.default, bool):
        return "on" if flag.default else ""
    text = ",".join(flag.default) if isinstance(flag.default, tuple) else str(flag.default)
    return "" if flag.default in (None, ()) else f"`{text}`"


if __name__ == "__main__":
    PAGE.write_text(page())
