"""`sdquant ls`, `show`, `verify`, `rm`, `tag`: maintenance of a store."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import DamagedArtifact
from .command import Invocation

if TYPE_CHECKING:
    from ..options.commands import (
        CollectRequest,
        ListRequest,
        RemoveRequest,
        ShowRequest,
        TagRequest,
        VerifyRequest,
    )
    from ..store import Entry, Store


def _open_store(url: str) -> "Store":
    from ..store import Store
    from . import render

    return Store(url, render.Terminal())


def ls(request: "ListRequest", call: Invocation) -> None:
    """List artifacts, oldest first.

    Unfinished and damaged artifacts come last.

    Example: sdquant ls
    """
    from . import render

    store = _open_store(call.store)
    tags, entries = store.tags(), store.entries()
    for entry in entries:
        if entry.problem:
            store.events.warn(str(entry.problem))
    rows = [_row(entry, tags.get(entry.key, [])) for entry in entries]
    if call.json:
        render.print_json(rows)
    else:
        columns = ("artifact", "tags", "created", "bytes", "state")
        render.print_table(columns, [tuple(map(_cell, row.values())) for row in rows])


def _cell(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value or "")


def _row(entry: "Entry", tags: list[str]) -> dict[str, object]:
    artifact = entry.artifact
    return {
        "artifact": entry.name,
        "tags": tags,
        "created": artifact.manifest.provenance.created_at if artifact else None,
        "bytes": sum(item.size for item in artifact.objects()) if artifact else None,
        "state": entry.state,
    }


def show(request: "ShowRequest", call: Invocation) -> None:
    """Show an artifact: its facts, spec, inputs and provenance.

    Example: sdquant show quant-state
    """
    from . import render
    from .execute import show_artifact

    artifact = _open_store(call.store).resolve(request.name)
    if call.json:
        render.print_json(artifact.manifest.model_dump(mode="json"))
        return
    show_artifact(artifact)
    render.print_pairs("spec", artifact.spec.model_dump(mode="json"))
    render.print_pairs("inputs", {role: ref.name for role, ref in artifact.manifest.inputs.items()})
    render.print_pairs("made by", artifact.manifest.provenance.model_dump(mode="json"))


def verify(request: "VerifyRequest", call: Invocation) -> None:
    """Check stored bytes against their sha256.

    Of an exported folder, what it computes is checked too.

    Example: sdquant verify
    """
    if request.name and Path(request.name).is_dir():
        _verify_export(Path(request.name))
        return
    store = _open_store(call.store)
    problems = _verify_artifact(store, request.name) if request.name else _verify_all(store)
    if len(problems) == 1:
        raise problems[0]
    for problem in problems:
        store.events.warn(str(problem))
    if problems:
        raise DamagedArtifact(f"{call.store}: {len(problems)} files are damaged, each named above")


def _verify_export(folder: Path) -> None:
    from ..stages.export import verify as verify_export
    from . import render

    render.print_pairs(f"{folder} is intact", verify_export(folder, render.Terminal()))


def _verify_artifact(store: "Store", name: str) -> list[Exception]:
    entry = store.locate(name)
    entry.published()
    return _damage(entry)


def _verify_all(store: "Store") -> list[Exception]:
    from ..store import checks

    entries = store.entries()
    problems = [problem for entry in entries for problem in _damage(entry)]
    problems += checks.tag_damage(store, entries)
    for remark in checks.remarks(store, entries):
        store.events.warn(remark)
    return problems


def _damage(entry: "Entry") -> list[Exception]:
    """Return the problems of an artifact; print that it is intact if there are none."""
    from ..store import checks

    problems: list[Exception] = list(checks.damage(entry))
    if entry.artifact and not problems:
        typer.echo(f"{entry.name} is intact")
    return problems


def gc(request: "CollectRequest", call: Invocation) -> None:
    """Remove what killed runs left.

    That is unfinished artifacts, scratch folders and files that were only staged. Published artifacts are
    kept; `sdquant rm` removes those.

    Example: sdquant gc --older-than 14d --dry-run
    """
    from ..options.values import age
    from ..store.garbage import garbage, remove

    store = _open_store(call.store)
    verb, files, size = "would remove" if call.dry_run else "removed", 0, 0
    for item in list(garbage(store, age(request.older_than))):
        if call.dry_run or remove(store, item):
            files, size = files + item.files, size + item.bytes
            typer.echo(f"{verb} {item.what} {item.path}, {item.days:.0f} days old")
    typer.echo(f"{verb} {files} files, {size} bytes")


def rm(request: "RemoveRequest", call: Invocation) -> None:
    """Remove an artifact that no other artifact depends on.

    Unfinished and damaged artifacts are removed too.

    Example: sdquant rm images/latest
    """
    store = _open_store(call.store)
    entry = store.locate(request.name)
    store.remove(entry, force=request.force)
    typer.echo(f"removed {entry.name}")


def tag(request: "TagRequest", call: Invocation) -> None:
    """Tag an artifact; the next stage reads the one tagged latest.

    Example: sdquant tag quant-state/latest release-1
    """
    store = _open_store(call.store)
    artifact = store.resolve(request.name)
    store.tag(artifact, request.tag_name)
    typer.echo(f"{artifact.kind}/{request.tag_name} is now {artifact.key}")
