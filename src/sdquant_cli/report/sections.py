"""Sections of the report that look inside a quantized model. What is absent is said in a sentence."""

import string
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np

from ..calibration import checkpoints
from ..errors import MissingArtifact, SdquantError
from ..metrics.ratios import decibels
from ..models.layers import is_text_fed
from ..models.load import ModelName, find_model
from ..models.shortcuts import PARTS, split_names
from ..quant.relaxing import bits_of_rows, relaxed_rows
from ..store import Artifact, Store
from ..types import Bits
from . import charts, page
from .comparison import ComparedModel

CHOSEN_LAYERS = 6
Charts = list[page.Chart | page.Unavailable]


def without_place(error: SdquantError, store: Store) -> str:
    """An error's message without the store's place: a report is read elsewhere."""
    return str(error).removeprefix(f"{store.url}: ")


def _input(model: ComparedModel, role: str, store: Store) -> Artifact | page.Unavailable:
    """An artifact that the quantizer state was made from, or why there is none."""
    ref = model.state.manifest.inputs.get(role)
    if ref is None:
        return page.Unavailable(f"{model.label} was calibrated without a {role} artifact.")
    try:
        return store.follow(ref)
    except MissingArtifact as error:
        return page.Unavailable(f"{model.label}: {without_place(error, store)}.")


# -------------------------------------------------------------------------------------- drift


def drift(models: Sequence[ComparedModel]) -> Charts:
    """Three charts by UNet call, one line a model."""
    measured = {i: model.drift for i, model in enumerate(models) if model.drift}
    absent: Charts = [
        page.Unavailable(f"{model.label}: not measured; `sdquant evaluate --drift` does it.")
        for model in models
        if model.drift is None
    ]
    if not measured:
        return absent
    counts = sorted({a.spec.prompts for a in measured.values()})
    means = f"mean of {' or '.join(map(str, counts))} prompts"

    def chart(title: str, field: str, caption: str) -> page.Chart:
        series = [
            charts.LineSeries(i, range(1, len(a.facts.timesteps) + 1), getattr(a.facts, field))
            for i, a in measured.items()
        ]
        return page.Chart(caption, charts.lines(title, "UNet call", series))

    own, shared = f"each model on its own trajectory, {means}", f"all on the FP trajectory, {means}"
    return [
        chart("latent SNR, dB", "latent_snr", own),
        chart("latent cosine", "latent_cosine", own),
        chart("noise-prediction SQNR, dB", "prediction_sqnr", shared),
        *absent,
    ]


# -------------------------------------------------------------------------------- sensitivity


def sensitivity(models: Sequence[ComparedModel], store: Store) -> Charts:
    """A chart a distinct ranking: bars by layer in network order, both ends marked."""
    shown: dict[str, tuple[Artifact, list[str]]] = {}
    absent: Charts = []
    for model in models:
        ranking = _input(model, "sensitivity", store)
        if isinstance(ranking, page.Unavailable):
            absent.append(ranking)
        else:
            shown.setdefault(ranking.manifest.key, (ranking, []))[1].append(model.label)
    return [*(_ranking_chart(ranking, labels) for ranking, labels in shown.values()), *absent]


def _ranking_chart(ranking: Artifact, labels: Sequence[str]) -> page.Chart:
    facts, spec = ranking.facts, ranking.spec
    caption = (
        f"{len(facts.ranking)} layers in network order, weights rounded at {spec.bits}, "
        f"{facts.samples} samples; used by {', '.join(labels)}"
    )
    listed = ((f"{end} 5%", tuple(getattr(facts, end))) for end in ("top", "bottom"))
    return page.Chart(
        caption, charts.sensitivity(facts.scores, facts.top, facts.bottom), wide=True, details=tuple(listed)
    )


# ------------------------------------------------------------------------------------- layers


def _layer_names(models: Sequence[ComparedModel], store: Store) -> list[str]:
    """Quantizable layers in network order: from a ranking, or else from the model's configuration."""
    for model in models:
        ranking = _input(model, "sensitivity", store)
        if isinstance(ranking, Artifact):
            return list(ranking.facts.scores)
    name = ModelName.from_ref(models[0].images.spec.setting.model)
    return list(find_model(name, fetch=False).layer_shapes)


def activations(models: Sequence[ComparedModel], store: Store) -> Charts:
    """Ranges and step sizes over timesteps, for layers from both ends of the ranking."""
    try:
        names = _layer_names(models, store)
    except SdquantError as error:
        return [page.Unavailable(f"The layers' names are not at hand: {without_place(error, store)}.")]
    bands = [_bands(model, names, store) for model in models]
    chosen = _chosen_layers(models, names, store)
    return [
        page.Chart(why, charts.activation_range(name, [band(name) for band in bands])) for name, why in chosen
    ]


def _chosen_layers(models: Sequence[ComparedModel], names: list[str], store: Store) -> list[tuple[str, str]]:
    """Half the most, half the least sensitive layers; evenly spread where there is no ranking."""
    per_step = [name for name in names if not is_text_fed(name)]
    half = CHOSEN_LAYERS // 2
    for model in models:
        ranking = _input(model, "sensitivity", store)
        if isinstance(ranking, Artifact):
            ranked = [name for name in ranking.facts.ranking if not is_text_fed(name)]
            ends = {"most": ranked[:half], "least": ranked[-half:]}
            return [(name, f"among the {half} {end} sensitive") for end in ends for name in ends[end]]
    places = np.linspace(0, len(per_step) - 1, min(CHOSEN_LAYERS, len(per_step))).round().astype(int)
    return [(per_step[i], f"layer {names.index(per_step[i]) + 1} of {len(names)}") for i in places]


def _bands(model: ComparedModel, names: list[str], store: Store) -> Callable[[str], charts.ActivationRange]:
    """A function from a layer's name to what its activation grid covers."""
    steps, zeros, offsets = (
        model.state.read(name) for name in ("activation_step", "activation_zero", "activation_step_offset")
    )
    names = _own(model, names)
    bits = bits_of(model, names)
    table = _input(model, "time-table", store)
    timesteps = None if isinstance(table, page.Unavailable) else table.read("timestep")

    def band(name: str) -> charts.ActivationRange:
        name = name if name in names else f"{name}.{PARTS[0]}"
        i = names.index(name)
        part = slice(*offsets[i : i + 2])
        step, zero = steps[part].astype(float), zeros[part].astype(float)
        at = np.arange(len(step), 0.0, -1) if timesteps is None else timesteps
        order = np.argsort(at)
        relaxed = relaxed_rows(model.state.spec.relax, len(step))
        largest = 2 ** bits_of_rows(bits[name].activations, len(step), relaxed).numpy() - 1
        step, zero, largest = (np.broadcast_to(values, len(at)) for values in (step, zero, largest))
        return charts.ActivationRange(
            at[order].tolist(),
            (-zero * step)[order].tolist(),
            ((largest - zero) * step)[order].tolist(),
            step[order].tolist(),
        )

    return band


def _own(model: ComparedModel, names: list[str]) -> list[str]:
    """The names of a model's layers, some of which may be in two parts."""
    return split_names(names) if model.state.spec.split_shortcuts else names


def bits_of(model: ComparedModel, names: Sequence[str]) -> dict[str, Bits]:
    """The bits of every layer."""
    usual, special = model.state.spec.bits, model.state.facts.bits
    return {name: Bits.parse(special.get(name, usual)) for name in names}


def bits(models: Sequence[ComparedModel], store: Store) -> list[page.BitMap | page.Unavailable]:
    """Every layer's bits, by block in network order."""
    try:
        names = _layer_names(models, store)
    except SdquantError as error:
        return [page.Unavailable(f"The layers' names are not at hand: {without_place(error, store)}.")]
    maps: list[page.BitMap | page.Unavailable] = []
    for model in models:
        own = _own(model, names)
        chosen = bits_of(model, own)
        blocks = [
            (block, tuple(page.LayerBits(n, chosen[n].weights, chosen[n].activations) for n in layers))
            for block, layers in groupby(charts.network_order(own), charts.block_of)
        ]
        maps.append(page.BitMap(model.label, tuple(blocks)))
    return maps


def frontier(models: Sequence[ComparedModel]) -> Charts:
    """What budgets of weight bits buy, one line a model that was given one; nothing where none was."""
    budgeted = [(i, model.state.facts) for i, model in enumerate(models) if model.state.facts.frontier]
    if not budgeted:
        return []
    series = [
        charts.LineSeries(
            i, [p.average_bits for p in facts.frontier], [p.predicted_sqnr for p in facts.frontier]
        )
        for i, facts in budgeted
    ]
    taken = ", ".join(f"{models[i].label} took {facts.allocation.average_bits:.2f}" for i, facts in budgeted)
    caption = f"weights rounded by data alone, noises of single layers added; {taken} bits"
    return [page.Chart(caption, charts.lines("predicted SQNR, dB", "average bits of a weight", series))]


# ------------------------------------------------------------------------------------- losses


def losses(models: Sequence[ComparedModel]) -> Charts:
    """Loss over iterations, one line a trained model; of a reconstructed one, how near its units came."""
    series, reconstructed, absent = [], [], []
    for i, model in enumerate(models):
        means, iterations = model.state.facts.losses, model.state.spec.iterations
        if units := model.state.facts.units:
            near = [decibels(unit.after) for unit in units]
            reconstructed.append(charts.LineSeries(i, range(1, len(units) + 1), near))
        elif len(means) > 1:
            ends = [min((k + 1) * checkpoints.EVERY, iterations) for k in range(len(means))]
            series.append(charts.LineSeries(i, ends, means))
        elif means:
            absent.append(
                page.Unavailable(f"{model.label}: {means[0]:.4g}, mean of {iterations} iterations.")
            )
        else:
            absent.append(page.Unavailable(f"{model.label}: rounded from data alone, without training."))
    caption = f"mean over each {checkpoints.EVERY} iterations"
    drawn: Charts = [page.Chart(caption, charts.lines("loss", "iteration", series))] if series else []
    if reconstructed:
        chart = charts.lines("SQNR of a unit's answer, dB", "unit", reconstructed)
        drawn.append(page.Chart("units in the order in which they run, after reconstruction", chart))
    return [*drawn, *absent]


# ------------------------------------------------------------------------------------ lineage


def lineage(models: Sequence[ComparedModel], store: Store) -> page.Lineage:
    """Every artifact behind the report, and the software that made it."""
    environments: dict[str, str] = {}
    rows: dict[str, page.Ancestor] = {}
    for artifact in (a for model in models for a in (model.metrics, model.drift) if a):
        for name, found in _ancestors(artifact, store):
            rows.setdefault(name, _ancestor(name, found, environments))
    order = sorted(rows.values(), key=lambda row: (row.created == "", row.created))
    return page.Lineage({letter: text for text, letter in environments.items()}, tuple(order))


def _ancestors(artifact: Artifact, store: Store) -> Iterator[tuple[str, Artifact | None]]:
    """An artifact and all it was made from; None for those that were removed."""
    yield artifact.name, artifact
    for ref in artifact.manifest.inputs.values():
        found = store.find(ref.kind, ref.key)
        if found is None:
            yield ref.name, None
        else:
            yield from _ancestors(found, store)


def _ancestor(name: str, artifact: Artifact | None, environments: dict[str, str]) -> page.Ancestor:
    if artifact is None:
        return page.Ancestor(name, "", "", "", (), removed=True)
    made = artifact.manifest.provenance
    packages = ", ".join(f"{package} {version}" for package, version in made.packages.items())
    text = f"sdquant {made.sdquant}, Python {made.python}, {packages}; threads: {made.threads}"
    letter = environments.setdefault(text, string.ascii_uppercase[len(environments) % 26])
    return page.Ancestor(
        name=name,
        digest=artifact.manifest.digest,
        created=made.created_at,
        environment=letter,
        inputs=tuple(f"{ref.kind}/{ref.key[:8]}" for ref in artifact.manifest.inputs.values()),
    )
