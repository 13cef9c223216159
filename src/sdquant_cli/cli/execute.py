"""Run a stage for a command: request to artifact, artifact to the user."""

import logging
import os
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

from ..ranks import alone, current
from ..types import Kind
from .command import Invocation

if TYPE_CHECKING:
    from ..artifacts.workspace import Plan, Workspace
    from ..store import Artifact


def quiet_libraries() -> None:
    """Keep the bars and advice of other libraries out of our output; a variable that is set wins.

    Call before their first import: they read these once.
    """
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def open_workspace(url: str) -> "Workspace":
    """Return a workspace over the store at a folder or URL, whose events go to the terminal."""
    from ..artifacts.workspace import Workspace
    from ..store import Store
    from .render import terminal

    events = terminal()
    return Workspace(Store(url, events), events)


def execute(stage: ModuleType, request: object, call: Invocation) -> None:
    """Run a stage and show what it made, or what it would do."""
    workspace = open_workspace(call.store)
    if call.dry_run:
        _show_plan(stage.plan(request, workspace.silent()), as_json=call.json)
        return
    _finish(stage, stage.run(request, workspace), request, call)


def execute_alone(stage: ModuleType, request: object, call: Invocation) -> None:
    """Run a stage that needs no store and show what it found, or what it would do; the first rank does."""
    from .render import Terminal

    if not current().is_first:
        return
    with alone():
        if call.dry_run:
            _show_plan(stage.plan(request), as_json=call.json)
        else:
            _finish(stage, stage.run(request, Terminal()), request, call)


def _finish(stage: ModuleType, artifact: "Artifact", request: object, call: Invocation) -> None:
    show_result(stage, artifact, as_json=call.json)
    conclude(stage, artifact, request)


def conclude(stage: ModuleType, artifact: "Artifact", request: object) -> None:
    """Have the first rank do what a stage ends with, such as checking gates."""
    if hasattr(stage, "conclude") and current().is_first:
        stage.conclude(artifact, request)


def show_result(stage: ModuleType, artifact: "Artifact", *, as_json: bool) -> None:
    """Print what a stage has made: its facts, or one JSON document."""
    from . import render

    if not as_json:
        show_artifact(artifact)
    elif hasattr(stage, "document"):
        render.print_json(stage.document(artifact))
    else:
        render.print_json(artifact.manifest.model_dump(mode="json"))


def show_artifact(artifact: "Artifact") -> None:
    """Print an artifact's name, and its facts in the form that suits its kind."""
    from . import render

    if artifact.kind == Kind.METRICS:
        render.print_pairs(artifact.name, {})
        render.print_metrics(artifact.facts)
    elif artifact.kind == Kind.LEADERBOARD:
        from ..report.leaderboard import table

        render.print_pairs(artifact.name, {})
        render.print_table(*table(artifact.spec, artifact.facts).plain())
    else:
        render.print_pairs(artifact.name, artifact.manifest.model_dump(mode="json")["facts"])


def _show_plan(plan: "Plan", *, as_json: bool) -> None:
    from . import render

    if as_json:
        render.print_json(_document(plan))
    else:
        render.print_pairs(f"{plan.stage} would do", plan.numbers)


def show_plans(chains: "Iterable[list[Plan]]", *, as_json: bool) -> None:
    """Print the plans of chains of stages, or one JSON document: a list of chains."""
    from . import render

    if as_json:
        render.print_json([list(map(_document, plans)) for plans in chains])
        return
    for number, plans in enumerate(chains, 1):
        render.print_pairs(f"chain {number}", {})
        for plan in plans:
            _show_plan(plan, as_json=False)


def _document(plan: "Plan") -> dict[str, object]:
    return {"stage": plan.stage, "plan": plan.numbers}
