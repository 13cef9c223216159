"""`sdquant run`."""

from typing import TYPE_CHECKING

from .command import Invocation

if TYPE_CHECKING:
    from ..options.commands import RunRequest


def run(request: "RunRequest", call: Invocation) -> None:
    """Run all stages with the options of a YAML file.

    Stages that are up to date are skipped.

    Example: sdquant run --config chain.yaml
    """
    from ..options.config_file import read_config
    from ..stages import evaluate, pipeline
    from .execute import open_workspace, show_result

    config = read_config(request.config)
    metrics = pipeline.run(config, open_workspace(call.store))
    show_result(evaluate, metrics, as_json=call.json)
    evaluate.conclude(metrics, config.evaluate)
