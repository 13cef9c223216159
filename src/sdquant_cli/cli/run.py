"""`sdquant run`."""

from typing import TYPE_CHECKING

from .command import Invocation

if TYPE_CHECKING:
    from ..options.commands import RunRequest


def run(request: "RunRequest", call: Invocation) -> None:
    """Run all stages with the options of a YAML file.

    Stages that are up to date are skipped. A file may have several chains, one after the other.

    Example: sdquant run --config chain.yaml

    Example: sdquant run --config examples/paper/table-7.yaml --dry-run
    """
    from ..errors import GateFailed
    from ..options.config_file import read_configs
    from ..stages import evaluate, pipeline
    from .execute import conclude, open_workspace, show_plans, show_result

    configs, workspace = read_configs(request.config), open_workspace(call.store)
    if call.dry_run:
        show_plans(pipeline.plan(configs, workspace), as_json=call.json)
        return
    pipeline.check_files(configs, workspace)
    failed = []
    for config in configs:
        metrics = pipeline.run(config, workspace)
        show_result(evaluate, metrics, as_json=call.json)
        try:
            conclude(evaluate, metrics, config.evaluate)
        except GateFailed as error:  # the other chains run all the same
            failed.append(str(error))
    if failed:
        raise GateFailed("; ".join(failed))
