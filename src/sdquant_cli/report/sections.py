"""Charts of drift, sensitivity, loss and bit budgets. Where the data is missing, one sentence says why."""

from collections.abc import Sequence

from ..artifacts.lineage import Lineage
from ..calibration import checkpoints
from ..errors import MissingArtifact
from ..manifests.kinds import DriftManifest, SensitivityManifest
from ..metrics.ratios import decibels
from . import charts, page
from .comparison import ComparedModel

Charts = list[page.Chart | page.Unavailable]


# -------------------------------------------------------------------------------------- drift


def drift(models: Sequence[ComparedModel]) -> Charts:
    """Return three charts by UNet call, one line per model."""
    measured: dict[int, DriftManifest] = {}
    missing: Charts = []
    for series, model in enumerate(models):
        if model.drift:
            measured[series] = model.drift
        else:
            missing.append(page.Unavailable(f"{model.label}: not measured; run `sdquant evaluate --drift`."))
    if not measured:
        return missing
    counts = sorted({manifest.spec.prompts for manifest in measured.values()})
    means = f"mean of {' or '.join(map(str, counts))} prompts"
    separate = f"each model on its own trajectory, {means}"
    shared = f"all on the FP trajectory, {means}"
    return [
        _drift_chart("latent SNR, dB", "latent_snr", measured, separate),
        _drift_chart("latent cosine", "latent_cosine", measured, separate),
        _drift_chart("noise-prediction SQNR, dB", "prediction_sqnr", measured, shared),
        *missing,
    ]


def _drift_chart(title: str, field: str, measured: dict[int, DriftManifest], caption: str) -> page.Chart:
    lines = []
    for series, manifest in measured.items():
        calls = range(1, len(manifest.facts.timesteps) + 1)
        lines.append(charts.LineSeries(series, calls, getattr(manifest.facts, field)))
    return page.Chart(caption, charts.lines(title, "UNet call", lines))


# -------------------------------------------------------------------------------- sensitivity


def ranking_of(model: ComparedModel, lineage: Lineage) -> SensitivityManifest | page.Unavailable:
    """Return the sensitivity ranking that a state was calibrated with, or why there is none."""
    if "sensitivity" not in model.state.inputs:
        return page.Unavailable(f"{model.label} was calibrated without a sensitivity artifact.")
    try:
        return lineage.input(model.state, "sensitivity", SensitivityManifest)
    except MissingArtifact as error:
        return page.Unavailable(f"{model.label}: {error}.")


def first_ranking(models: Sequence[ComparedModel], lineage: Lineage) -> SensitivityManifest | None:
    """Return the ranking of the first model that has one."""
    for model in models:
        ranking = ranking_of(model, lineage)
        if isinstance(ranking, SensitivityManifest):
            return ranking
    return None


def sensitivity(models: Sequence[ComparedModel], lineage: Lineage) -> Charts:
    """Return one bar chart per ranking, layers in network order, both ends marked."""
    rankings: dict[str, SensitivityManifest] = {}
    users: dict[str, list[str]] = {}  # key of a ranking -> labels of the models that used it
    missing: Charts = []
    for model in models:
        ranking = ranking_of(model, lineage)
        if isinstance(ranking, page.Unavailable):
            missing.append(ranking)
        else:
            rankings[ranking.key] = ranking
            users.setdefault(ranking.key, []).append(model.label)
    shown: Charts = [_ranking_chart(ranking, users[key]) for key, ranking in rankings.items()]
    return shown + missing


def _ranking_chart(ranking: SensitivityManifest, labels: Sequence[str]) -> page.Chart:
    facts = ranking.facts
    how = f"weights rounded at {ranking.spec.bits}, {facts.samples} samples"
    if ranking.spec.ranking:
        how = "by their places in a list that was given, not measured"
    caption = f"{len(facts.ranking)} layers in network order, {how}; used by {', '.join(labels)}"
    return page.Chart(
        caption,
        charts.sensitivity(facts.scores, facts.top, facts.bottom),
        wide=True,
        details=(("top 5%", tuple(facts.top)), ("bottom 5%", tuple(facts.bottom))),
    )


# ------------------------------------------------------------------------------------- losses


def losses(models: Sequence[ComparedModel]) -> Charts:
    """Return the loss by iteration of distilled models, and the SQNR by block of reconstructed ones."""
    trained: list[charts.LineSeries] = []
    reconstructed: list[charts.LineSeries] = []
    missing: Charts = []
    for series, model in enumerate(models):
        means, iterations = model.state.facts.losses, model.state.spec.iterations
        if blocks := model.state.facts.units:
            sqnr = [decibels(block.after) for block in blocks]
            reconstructed.append(charts.LineSeries(series, range(1, len(blocks) + 1), sqnr))
        elif len(means) > 1:
            ends = [min((k + 1) * checkpoints.EVERY, iterations) for k in range(len(means))]
            trained.append(charts.LineSeries(series, ends, means))
        elif means:
            text = f"{model.label}: {means[0]:.4g}, the mean of {iterations} iterations."
            missing.append(page.Unavailable(text))
        else:
            text = f"{model.label}: no training; its weights are rounded to nearest."
            missing.append(page.Unavailable(text))
    shown: Charts = []
    if trained:
        chart = charts.lines("loss", "iteration", trained)
        shown.append(page.Chart(f"mean of every {checkpoints.EVERY} iterations", chart))
    if reconstructed:
        chart = charts.lines("SQNR of a block's output, dB", "block", reconstructed)
        shown.append(page.Chart("blocks in the order in which they run, after reconstruction", chart))
    return shown + missing


# ------------------------------------------------------------------------------------ budgets


def frontier(models: Sequence[ComparedModel]) -> Charts:
    """Return predicted SQNR by average weight bits, one line per model with a budget; [] without any."""
    series, chosen = [], []
    for i, model in enumerate(models):
        facts = model.state.facts
        if facts.frontier:
            bits = [point.average_bits for point in facts.frontier]
            sqnr = [point.predicted_sqnr for point in facts.frontier]
            series.append(charts.LineSeries(i, bits, sqnr))
        if facts.frontier and facts.allocation:
            chosen.append(f"{model.label} uses {facts.allocation.average_bits:.2f} bits")
    if not series:
        return []
    caption = (
        "predicted from one layer at a time: weights rounded to nearest, the layers' noise added up; "
        f"{', '.join(chosen)}"
    )
    return [page.Chart(caption, charts.lines("predicted SQNR, dB", "average bits of a weight", series))]
