"""`sdquant ls`, `show`, `verify`, `rm`, `tag`: looking after a store."""

from pathlib import Path
from typing import Annotated

import typer

from . import options as o

NameArgument = Annotated[str, typer.Argument(help="kind, kind/key, kind/tag, or the beginning of a key.")]


def ls(store: o.StoreOption = o.DEFAULT_STORE, json: o.JsonOption = False) -> None:
    """List artifacts, oldest first.

    Example: sdquant ls
    """
    from ..store import Store
    from . import render

    opened = Store(store)
    tags = opened.tags()
    rows = [
        {
            "artifact": f"{a.manifest.kind}/{a.manifest.key}",
            "tags": tags.get(a.manifest.key, []),
            "created": a.manifest.provenance.created_at,
            "bytes": sum(item.size for item in a.objects()),
        }
        for a in opened.artifacts()
    ]
    if json:
        render.print_json(rows)
    else:
        cells = [[" ".join(v) if isinstance(v, list) else str(v) for v in row.values()] for row in rows]
        render.print_table(("artifact", "tags", "created", "bytes"), cells)


def show(name: NameArgument, store: o.StoreOption = o.DEFAULT_STORE, json: o.JsonOption = False) -> None:
    """Show what an artifact is, and what it was made from.

    Example: sdquant show quant-state
    """
    from ..store import Store
    from . import render
    from .execute import show_artifact

    artifact = Store(store).resolve(name)
    if json:
        render.print_json(artifact.manifest.model_dump(mode="json"))
        return
    show_artifact(artifact)
    render.print_pairs("spec", artifact.spec.model_dump(mode="json"))
    render.print_pairs("inputs", {role: f"{r.kind}/{r.key}" for role, r in artifact.manifest.inputs.items()})
    render.print_pairs("made by", artifact.manifest.provenance.model_dump(mode="json"))


def verify(
    name: Annotated[
        str | None, typer.Argument(help="An artifact, or an exported folder; all artifacts by default.")
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
    from ..store import Store

    opened = Store(store)
    artifacts = [opened.resolve(name)] if name else opened.artifacts()
    for artifact in artifacts:
        artifact.verify()
        typer.echo(f"{artifact.manifest.kind}/{artifact.manifest.key} is intact")


def rm(
    name: NameArgument,
    force: Annotated[bool, typer.Option("--force", help="Also if others were made from it.")] = False,
    store: o.StoreOption = o.DEFAULT_STORE,
) -> None:
    """Remove an artifact that no other depends on.

    Example: sdquant rm images/latest
    """
    from ..store import Store

    opened = Store(store)
    artifact = opened.resolve(name)
    opened.remove(artifact, force=force)
    typer.echo(f"removed {artifact.manifest.kind}/{artifact.manifest.key}")


def tag(
    name: NameArgument,
    tag_name: Annotated[str, typer.Argument(metavar="TAG", help="The name to give it.")],
    store: o.StoreOption = o.DEFAULT_STORE,
) -> None:
    """Give an artifact a name; `latest` decides what the next stage reads.

    Example: sdquant tag quant-state/latest release-1
    """
    from ..store import Store

    opened = Store(store)
    artifact = opened.resolve(name)
    opened.tag(artifact, tag_name)
    typer.echo(f"{artifact.manifest.kind}/{tag_name} is now {artifact.manifest.key}")
