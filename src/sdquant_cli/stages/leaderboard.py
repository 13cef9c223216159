"""`leaderboard`: calibration methods compared on the same model, prompts, noise, bits and metrics.

Each row runs the stages that it needs, in order, and is finished before the next begins; what is in the
store is not computed again. A row that fails is reported and does not stop the others.
"""

from collections.abc import Iterator, Mapping, Sequence

from ..artifacts.images import Images
from ..artifacts.leaderboard import Leaderboard, store_leaderboard
from ..artifacts.metrics import Metrics
from ..artifacts.prompts import Prompts
from ..artifacts.settings import new_setting
from ..artifacts.workspace import Plan, Workspace
from ..errors import SdquantError, UsageProblem
from ..manifests import LeaderboardSpec
from ..methods.method_requests import MethodRequests, method_requests
from ..options.requests import LeaderboardRequest
from ..paths import HTML, atomic_write, check_output, check_overwrites
from ..prompts import read_prompts
from ..report import board
from ..report.comparison import setting_facts
from ..report.leaderboard import BoardImages, RowImages, command_line, make_board, ordered_rows
from ..store import Absent, Artifact
from . import calibrate, evaluate, generate, sample, sensitivity


def run(request: LeaderboardRequest, workspace: Workspace) -> Leaderboard:
    """Compute what is missing of every row, then write the pages."""
    rows = _rows(request, workspace)
    _check_files(request, workspace)
    workspace = workspace.pinned()
    metrics: dict[str, list[Metrics]] = {}
    failed: dict[str, SdquantError] = {}
    for row in rows:
        workspace.events.note(f"== {row.name}")
        if row.refused:
            workspace.events.warn(f"{row.name} is not run: {row.refused}")
            continue
        try:
            metrics[row.name] = [_calibrated(row, seed, workspace) for seed in range(request.calibrations)]
        except SdquantError as error:
            workspace.events.warn(f"{row.name} failed: {error}")
            failed[row.name] = error
    refused = {row.name: row.refused for row in rows if row.refused}
    if not metrics:
        raise next(iter(failed.values()), UsageProblem("; ".join(refused.values())))
    reasons = {name: str(error) for name, error in failed.items()}
    workspace.announce({name: artifacts[0] for name, artifacts in metrics.items()})
    spec = LeaderboardSpec(
        rows=tuple(row.name for row in rows),
        failed=reasons,
        refused=refused,
        calibrations=request.calibrations if request.calibrations > 1 else None,
    )
    leaderboard = store_leaderboard(workspace, spec, metrics)
    _write_pages(request, leaderboard, _read_images(workspace, leaderboard, metrics, request.pictures))
    return leaderboard


def conclude(leaderboard: Leaderboard, request: LeaderboardRequest) -> None:  # noqa: ARG001
    """Raise SdquantError if a row has failed."""
    if failed := leaderboard.spec.failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise SdquantError(f"{len(failed)} of {len(leaderboard.spec.rows)} rows failed: {reasons}")


def plan(request: LeaderboardRequest, workspace: Workspace) -> Plan:
    """Return for each row which stages have something to compute."""
    missing: dict[str, int | float | str] = {}
    for row in _rows(request, workspace):
        missing[row.name] = row.refused or _missing(row, request.calibrations, workspace.read_only())
    return Plan("leaderboard", missing)


def _missing(row: MethodRequests, calibrations: int, read_only: Workspace) -> str:
    """Return which stages of the first unfinished calibration of a row have something to compute."""
    for seed in range(calibrations):
        if stages := _missing_stages(row.of_calibration(seed), read_only):
            return f"missing: {', '.join(stages)}" + (f" of seed {seed}" if seed else "")
    return "up to date"


def _missing_stages(row: MethodRequests, read_only: Workspace) -> list[str]:
    """Run a row's stages until one would have to compute something: then a read-only store raises Absent."""
    finished = 0
    try:
        for _ in _run_stages(row, read_only):
            finished += 1
    except Absent:
        pass
    return row.stages[finished:]


def _calibrated(row: MethodRequests, seed: int, workspace: Workspace) -> Metrics:
    """Run all stages of a row's calibration of a seed."""
    *_, last = _run_stages(row.of_calibration(seed), workspace)
    return Metrics.of(last)


def _rows(request: LeaderboardRequest, workspace: Workspace) -> list[MethodRequests]:
    _, setting = new_setting(request, workspace)
    return method_requests(request, setting.steps)


def _run_stages(row: MethodRequests, workspace: Workspace) -> Iterator[Artifact]:
    """Run the stages of a row; yield the artifact of each, the metrics last."""
    yield sample.run(row.sample, workspace)
    if row.sensitivity:
        yield sensitivity.run(row.sensitivity, workspace)
    state = calibrate.run(row.calibrate, workspace)
    yield state
    images = generate.run(row.generate.model_copy(update={"state": state.name}), workspace)
    yield images
    yield evaluate.run(row.evaluate.model_copy(update={"images": images.name}), workspace)


def _check_files(request: LeaderboardRequest, workspace: Workspace) -> None:
    """Raise what the last row or page would fail on, before the first is computed."""
    workspace.on(request.device)  # is refused where it is absent
    model, _ = new_setting(request, workspace)
    read_prompts(request.prompts, column=request.column)
    if request.test_prompts is None and request.test_column is not None:
        raise UsageProblem(f"--test-column {request.test_column}: needs --test-prompts")
    test_prompts = request.test_prompts or model.prompts_file
    if test_prompts is None:
        raise UsageProblem(f"{model.source} has no built-in prompts; pass --test-prompts FILE")
    count = len(read_prompts(test_prompts, column=request.test_column, flag="--test-prompts").prompts)
    if count < request.limit:
        workspace.events.note(f"--limit {request.limit}: {test_prompts} has {count} prompts; rows use all")
    check_output(request.output, "--output", workspace.store.url)
    check_overwrites(request.output, "--output", HTML, "an HTML page")
    if request.markdown is not None:
        check_output(request.markdown, "--markdown", workspace.store.url)
        check_overwrites(request.markdown, "--markdown", board.TITLE.encode(), "a leaderboard's table")


# ---------------------------------------------------------------------------------- the pages


def _write_pages(request: LeaderboardRequest, leaderboard: Leaderboard, images: BoardImages) -> None:
    page = make_board(leaderboard.spec, leaderboard.facts, images, command_line(request))
    atomic_write(request.output, board.html(page))
    if request.markdown:
        atomic_write(request.markdown, board.markdown(page))


def _read_images(
    workspace: Workspace, leaderboard: Leaderboard, metrics: Mapping[str, Sequence[Metrics]], count: int
) -> BoardImages:
    """Read the first calibrations' images of the first `count` prompts, rows in the order of the table."""
    first = next(iter(metrics.values()))[0]
    reference = workspace.input(Images, first, "reference")
    prompts = workspace.input(Prompts, reference, "prompts").texts()[:count]
    rows = []
    for row in ordered_rows(leaderboard.spec, leaderboard.facts):
        name = f"{row.method} {row.bits}"
        shown = metrics[name][0]
        images = workspace.input(Images, shown, "images").read("image", 0, len(prompts))
        rows.append(RowImages(name, images, shown.read("psnr", 0, len(prompts))))
    drawn = workspace.input(Images, first, "images")
    return BoardImages(
        setting=setting_facts(drawn.spec, drawn.facts),
        prompts=prompts,
        reference=reference.read("image", 0, len(prompts)),
        rows=rows,
    )
