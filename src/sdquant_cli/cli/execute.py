"""Runs one stage for a command: flags to request, request to artifact, artifact to the user."""

import logging
import os
from typing import Any

import typer

from .errors import request_of


def quiet_libraries() -> None:
    """Keep the bars and advice of other libraries out of our output; a set variable wins.

    Call before their first import: they read these once.
    """
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def execute(stage: Any, request_type: Any, flags: dict[str, Any]) -> None:
    """Run `stage` with a command's flags and show what it made.

    `flags` holds the request's fields, and `store`, `dry_run` and `json`, which every stage has; with
    `preset` also `context`, which knows what the user typed.
    """
    from ..artifacts.workspace import Workspace
    from ..options.presets import PRESETS
    from ..store import Store
    from . import render

    fields = {name: flags[name] for name in request_type.model_fields if name in flags}
    if preset := flags.get("preset"):
        settings = PRESETS[preset][stage.__name__.rpartition(".")[2]]
        typed = _typed(flags["context"])
        fields |= {name: value for name, value in settings.items() if name not in typed}
    request = request_of(request_type, **fields)
    events = render.Terminal()
    workspace = Workspace(Store(flags["store"], events), events)
    if flags["dry_run"]:
        _show_plan(stage.plan(request, workspace.silent()), as_json=flags["json"])
        return
    artifact = stage.run(request, workspace)
    if not flags["json"]:
        show_artifact(artifact)
    elif hasattr(stage, "document"):
        render.print_json(stage.document(artifact))
    else:
        render.print_json(artifact.manifest.model_dump(mode="json"))
    if hasattr(stage, "conclude"):
        stage.conclude(artifact, request)


def _typed(context: typer.Context) -> set[str]:
    """The flags that the user gave a value, whichever it is."""
    return {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name != "DEFAULT"
    }


def show_artifact(artifact: Any) -> None:
    """An artifact's name, and its facts in the form that suits its kind."""
    from . import render

    manifest = artifact.manifest.model_dump(mode="json")
    title = f"{manifest['kind']}/{manifest['key']}"
    if manifest["kind"] == "metrics":
        render.print_pairs(title, {})
        render.print_metrics(artifact.facts)
    elif manifest["kind"] == "leaderboard":
        from ..report.leaderboard import table

        render.print_pairs(title, {})
        render.print_table(*table(artifact).plain())
    else:
        render.print_pairs(title, manifest["facts"])


def _show_plan(plan: Any, *, as_json: bool) -> None:
    from . import render

    if as_json:
        render.print_json({"stage": plan.stage, "plan": plan.numbers})
    else:
        render.print_pairs(f"{plan.stage} would do", plan.numbers)
