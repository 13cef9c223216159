"""`report`: metrics artifacts and all they were made from, as one HTML page."""

import base64
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..artifacts.prompts import Prompts
from ..artifacts.workspace import Workspace
from ..errors import MissingArtifact
from ..manifests import MetricSummary, QuantStateSpec
from ..options.requests import ReportRequest
from ..paths import HTML, atomic_write, check_output, check_overwrites
from ..report import numbers, page, pictures
from ..report import sections as sections
from ..report.comparison import ComparedModel, compared, setting_facts
from ..report.reproduce import ReproductionTarget, prompt_file, script
from ..store import Store

PICTURE_BYTES = 8_000_000  # of data URIs: the rest of the 10 MB is for charts and prompts
PROMPT_BYTES = 1_000_000  # a larger prompt file is named, not embedded
SORTED_BY = ("psnr", "feature_distance")  # the first of these that was measured chooses the worst pictures


def run(request: ReportRequest, workspace: Workspace) -> Path:
    """Write the report of a request; returns its path."""
    output, store = request.output, workspace.store
    check_output(output, "--output", store.url)
    check_overwrites(output, "--output", HTML, "an HTML page")
    models = compared(request.names, store)
    workspace.announce({model.label: model.metrics for model in models})
    text = page.render(make_page(models, store, request.pictures))
    atomic_write(output, text)
    return output


def make_page(models: Sequence[ComparedModel], store: Store, count: int) -> page.Page:
    """All that the page shows."""
    labels = [model.label for model in models]
    title = ", ".join(labels[:-1]) + (" and " if len(labels) > 1 else "") + labels[-1]
    return page.Page(
        title=f"{title} beside floating point",
        setting=setting_facts(models[0].images),
        models=tuple(_model(model) for model in models),
        headline=_headline(models),
        skipped=_skipped(models),
        has_floor=any(model.metrics.facts.floor for model in models),
        grid=_grid(models, count),
        drift=sections.drift(models),
        sensitivity=sections.sensitivity(models, store),
        activations=sections.activations(models, store),
        losses=sections.losses(models),
        bits=sections.bits(models, store),
        frontier=sections.frontier(models),
        lineage=sections.lineage(models, store),
        reproduction=_reproduction(models, store),
    )


def _model(model: ComparedModel) -> page.ModelColumn:
    spec, facts = model.state.spec, model.state.facts
    average = {name: f"{value:.2f}" for name, value in facts.average_bits.items()}
    return page.ModelColumn(
        label=model.label,
        execution=model.images.spec.engine,
        facts={
            "bits": f"{spec.bits}, mixed precision" if spec.mixed else spec.bits,
            **{f"average bits of {name}": value for name, value in average.items()},
            "method": f"{spec.method}, {spec.iterations} iterations",
            "layers quantized": str(facts.layers),
            "attention's products": _attention(spec),
        },
    )


def _attention(spec: QuantStateSpec) -> str:
    if spec.attention_bits is None:
        return "not rounded"
    return f"q, k and v {spec.attention_bits} bits, probabilities {spec.softmax_bits} bits"


# ----------------------------------------------------------------------------------- headline


def _headline(models: Sequence[ComparedModel]) -> tuple[page.MetricRow, ...]:
    """A row a metric: each model, then floating-point pictures of other noise, then the reference itself.

    Metrics that no model has a number for are left to `_skipped`.
    """
    facts = [model.metrics.facts for model in models]
    rows = []
    for name in dict.fromkeys(name for f in facts for name in f.metrics):
        found = [f.metrics.get(name) for f in facts]
        if all(s is None or s.skipped for s in found):
            continue
        floor = next((f.floor[name] for f in facts if name in f.floor), None)
        itself = next((f.itself[name] for f in facts if name in f.itself), None)
        places = numbers.decimals(s.mean for s in (*found, floor, itself) if s)
        near, far = (s.mean if s else None for s in (itself, floor))
        ranked = not numbers.base(name).startswith("clip_score")  # the floor is as good there
        rows.append(
            page.MetricRow(
                name=name,
                better=numbers.better(name),
                unit=numbers.unit(name),
                n=next((s.n for s in found if s and not s.skipped), None),
                cells=(
                    *(_cell(s, places, near if ranked else None, far) for s in found),
                    _cell(floor, places),
                    _cell(itself, places),
                ),
            )
        )
    return tuple(rows)


def _skipped(models: Sequence[ComparedModel]) -> dict[str, list[str]]:
    """Why metrics were skipped for all models -> their names."""
    facts = [model.metrics.facts for model in models]
    reasons: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for f in facts for name in f.metrics):
        found = [f.metrics[name].skipped for f in facts if name in f.metrics]
        if all(found):
            reasons.setdefault(found[0], []).append(name)
    return reasons


def _cell(
    summary: MetricSummary | None, places: int, near: float | None = None, far: float | None = None
) -> page.Cell:
    if summary is None:
        return page.Cell(numbers.fixed(None, places))
    if summary.skipped:
        return page.Cell(numbers.fixed(None, places), note=f"skipped: {summary.skipped}")
    if summary.mean is None:
        return page.Cell("identical" if summary.identical == summary.n else "no value")
    low_high = [numbers.fixed(end, places) for end in sorted(set(summary.ci95 or ()))]
    return page.Cell(
        text=numbers.fixed(summary.mean, places),
        interval=" \u2026 ".join(low_high) if len(low_high) == 2 else "",
        note=f"{summary.identical} identical" if summary.identical else "",
        place=numbers.place(summary.mean, near, far),
    )


# --------------------------------------------------------------------------------------- grid


def _grid(models: Sequence[ComparedModel], count: int) -> page.PictureGrid:
    """The cards: half the worst by one metric, half the first prompts."""
    names = tuple(dict.fromkeys(name for model in models for name in model.scores))
    values = {name: [_scores(model, name) for model in models] for name in names}
    n = models[0].images.facts.images
    telling = (name for want in SORTED_BY for name in names if numbers.base(name) == want)
    sort_by = next(telling, "")
    worst = _by_distance(sort_by, values[sort_by], n) if sort_by else []
    worst = worst[: count // 2]
    first = [i for i in range(n) if i not in worst][: count - len(worst)]
    chosen = [*worst, *first]
    drawn, encoding = _pictures(models, chosen)
    places = {name: numbers.decimals(v for row in values[name] for v in row.tolist()) for name in names}
    prompts = Prompts.of(models[0].prompts).texts()
    cards = tuple(
        page.Card(
            index=i,
            prompt=prompts[i],
            pictures=drawn[i][: 1 + len(models)],
            differences=drawn[i][1 + len(models) :],
            scores=tuple(
                tuple(numbers.fixed(float(row[i]), places[name]) for row in values[name]) for name in names
            ),
            distance={name: _worst_of([float(row[i]) for row in values[name]], name) for name in names},
        )
        for i in chosen
    )
    shown = f"All {n} pictures" if len(cards) == n else f"{len(cards)} of {n} pictures"
    how = f": the {len(worst)} worst by {sort_by}, and the first {len(first)} of the others" if worst else ""
    setting = models[0].images.spec.setting
    return page.PictureGrid(
        sentence=f"{shown}{how if len(cards) < n else ''}. Embedded as {encoding}.",
        metrics={name: _short(name, names) for name in names},
        sort_by=sort_by,
        width=setting.width,
        height=setting.height,
        cards=cards,
    )


def _short(name: str, names: Sequence[str]) -> str:
    """A metric's name without its network, where that is clear."""
    short = numbers.base(name)
    return short if [numbers.base(other) for other in names].count(short) == 1 else name


def _scores(model: ComparedModel, name: str) -> np.ndarray:
    """A metric's value for each picture; nan where this model has none."""
    if name not in model.scores:
        return np.full(model.images.facts.images, np.nan)
    return model.metrics.read(name)


def _worst_of(values: Sequence[float], name: str) -> float | None:
    """The distance of the model that is furthest from the reference; None where all are identical."""
    found = [numbers.distance(name, value) for value in values if not math.isnan(value)]
    return max((d for d in found if d is not None), default=None)


def _by_distance(name: str, rows: Sequence[np.ndarray], n: int) -> list[int]:
    """Pictures by their worst distance, worst first; identical ones are left out."""
    worst = {i: _worst_of([float(row[i]) for row in rows], name) for i in range(n)}
    found = {i: d for i, d in worst.items() if d is not None}
    return sorted(found, key=lambda i: -found[i])


def _pictures(
    models: Sequence[ComparedModel], chosen: Sequence[int]
) -> tuple[dict[int, tuple[str, ...]], pictures.Encoding]:
    """By prompt: the reference's picture, each model's, each model's difference; as data URIs."""
    drawn = []
    for i in chosen:
        reference = models[0].reference.read("image", i, i + 1)[0]
        ours = [model.images.read("image", i, i + 1)[0] for model in models]
        drawn += [reference, *ours, *(pictures.difference(one, reference) for one in ours)]
    uris, encoding = pictures.encode(drawn, PICTURE_BYTES)
    each = 1 + 2 * len(models)
    return {i: tuple(uris[at * each : (at + 1) * each]) for at, i in enumerate(chosen)}, encoding


# ------------------------------------------------------------------------------- reproduction


def _reproduction(models: Sequence[ComparedModel], store: Store) -> page.Reproduction | page.Unavailable:
    """The commands that make the same metrics, with their prompt files."""
    goals = [ReproductionTarget(m.metrics, m.images, m.state, m.drift) for m in models]
    try:
        made = script(goals, store)
        prompts = [(name, store.resolve(f"prompts/{key}")) for key, name in made.files.items()]
    except MissingArtifact as error:
        return page.Unavailable(f"Left out: {sections.without_place(error, store)}.")
    downloads = []
    for name, artifact in prompts:
        _, data = prompt_file(artifact)
        href = f"data:text/plain;charset=utf-8;base64,{base64.b64encode(data).decode()}"
        downloads.append(
            page.PromptDownload(
                name=name,
                prompts=artifact.facts.prompts,
                sha256=hashlib.sha256(data).hexdigest(),
                href=href if len(data) <= PROMPT_BYTES else None,
            )
        )
    threads = {a.manifest.provenance.threads for m in models for a in (m.metrics, m.images, m.state)}
    setup = [f"export OMP_NUM_THREADS={n}" for n in threads] if len(threads) == 1 else []
    names = [f"metrics/{m.metrics.manifest.key}" for m in models] if len(models) > 1 else []
    return page.Reproduction(
        commands=(
            "export SDQUANT_STORE=./sdquant-again",
            *setup,
            *made.lines,
            " ".join(["sdquant", "report", *names]),
        ),
        prompts=tuple(downloads),
        remarks=(*made.remarks, *_weights(models)),
    )


def _weights(models: Sequence[ComparedModel]) -> list[str]:
    files = {name: digest for model in models for name, digest in model.metrics.spec.weights.items()}
    text = "`evaluate` needs {} (sha256 {}); see `sdquant doctor`."
    return [text.format(name, digest) for name, digest in files.items()]
