"""`sdquant ls`, `show`, `verify`, `rm`, `tag`: looking after a store."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as o

NameArgument = Annotated[str, typer.Argument(help="kind, kind/key, kind/tag, or the beginning of a key.")]


def _opened(url: str) -> Any:
    from ..store import Store
    from . import render

    return Store(url, render.Terminal())


def ls(store: o.StoreOption = o.DEFAULT_STORE, json: o.JsonOption = False) -> None:
    """List artifacts, oldest first; unfinished and damaged ones last.

    Example: sdquant ls
    """
    from . import render

    opened = _opened(store)
    tags, entries = opened.tags(), opened.entries()
    for entry in entries:
        if entry.problem:
            opened.events.warn(str(entry.problem))
    rows = [_row(entry, tags.get(entry.key, [])) for entry in entries]
    if json:
        render.print_json(rows)
    else:
        cells = [list(map(_cell, row.values())) for row in rows]
        render.print_table(("artifact", "tags", "created", "bytes", "state"), cells)


def _cell(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value or "")


def _row(entry: Any, tags: list[str]) -> dict[str, Any]:
    artifact = entry.artifact
    return {
        "artifact": entry.name,
        "tags": tags,
        "created": artifact.manifest.provenance.created_at if artifact else None,
        "bytes": sum(item.size for item in artifact.objects()) if artifact else None,
        "state": entry.state,
    }


def show(name: NameArgument, store: o.StoreOption = o.DEFAULT_STORE, json: o.JsonOption = False) -> None:
    """Show what an artifact is, and what it was made from.

    Example: sdquant show quant-state
    """
    from . import render
    from .execute import show_artifact

    artifact = _opened(store).resolve(name)
    if json:
        render.print_json(artifact.manifest.model_dump(mode="json"))
        return
    show_artifact(artifact)
    render.print_pairs("spec", artifact.spec.model_dump(mode="json"))
    render.print_pairs("inputs", {role: r.name for role, r in artifact.manifest.inputs.items()})
    render.print_pairs("made by", artifact.manifest.provenance.model_dump(mode="json"))


def verify(
    name: Annotated[
        str | None, typer.Argument(help="An artifact, or an exported folder; the whole store by default.")
    ] = None,
    store: o.StoreOption = o.DEFAULT_STORE,
) -> None:
    """Check stored bytes against the sha256 they were published with; of an export, also what it computes.

    Example: sdquant verify
    """
    if name and Path(name).is_dir():
        from ..stages.export import verify as verify_export
        from . import render

        render.print_pairs(f"{name} is intact", verify_export(Path(name), render.Terminal()))
        return
    from ..errors import DamagedArtifact
    from ..store import checks

    opened = _opened(store)
    entries = [opened.locate(name)] if name else opened.entries()
    if name:
        entries[0].published()
    problems = []
    for entry in entries:
        of_entry = list(checks.damage(entry))
        problems += of_entry
        if entry.artifact and not of_entry:
            typer.echo(f"{entry.name} is intact")
    if name is None:
        problems += checks.tag_damage(opened, entries)
        for remark in checks.remarks(opened, entries):
            opened.events.warn(remark)
    if len(problems) == 1:
        raise problems[0]
    for problem in problems:
        opened.events.warn(str(problem))
    if problems:
        raise DamagedArtifact(f"{store}: {len(problems)} files are damaged, each named above")


def rm(
    name: NameArgument,
    force: Annotated[bool, typer.Option("--force", help="Also if others were made from it.")] = False,
    store: o.StoreOption = o.DEFAULT_STORE,
) -> None:
    """Remove an artifact that no other depends on, whether it is finished or damaged.

    Example: sdquant rm images/latest
    """
    opened = _opened(store)
    entry = opened.locate(name)
    opened.remove(entry, force=force)
    typer.echo(f"removed {entry.name}")


def tag(
    name: NameArgument,
    tag_name: Annotated[str, typer.Argument(metavar="TAG", help="The name to give it.")],
    store: o.StoreOption = o.DEFAULT_STORE,
) -> None:
    """Give an artifact a name; `latest` decides what the next stage reads.

    Example: sdquant tag quant-state/latest release-1
    """
    opened = _opened(store)
    artifact = opened.resolve(name)
    opened.tag(artifact, tag_name)
    typer.echo(f"{artifact.kind}/{tag_name} is now {artifact.key}")
