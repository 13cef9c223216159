"""`sdquant run`."""

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def run(
    config: Annotated[Path, typer.Option("--config", help="YAML file with a section per stage.")],
    store: o.StoreOption = o.DEFAULT_STORE,
    json: o.JsonOption = False,
) -> None:
    """Run all stages from one file, skipping what is up to date.

    Example: sdquant run --config chain.yaml
    """
    from ..artifacts.workspace import Workspace
    from ..options.config_file import read_config
    from ..stages import evaluate, pipeline
    from ..store import Store
    from .execute import show_artifact
    from .render import Terminal, print_json

    chain, events = read_config(config), Terminal()
    metrics = pipeline.run(chain, Workspace(Store(store, events), events))
    if json:
        print_json(evaluate.document(metrics))
    else:
        show_artifact(metrics)
    evaluate.conclude(metrics, chain.evaluate)
