"""The report's whole content: what each section shows, made from values."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..artifacts.lineage import Lineage
from ..errors import MissingArtifact
from ..manifests import QuantStateSpec
from ..types import Activations
from . import layers, page, sections
from .comparison import ComparedModel, setting_facts
from .headline import headline, skipped
from .lineage import section as lineage_section
from .picture_grid import PromptImages, Selection, picture_grid
from .reproduce import PromptFileContent, ReproductionTarget, script

PROMPT_BYTES = 1_000_000  # a larger prompt file is named, not embedded


@dataclass(frozen=True)
class Material:
    """Everything that a report is made from."""

    models: Sequence[ComparedModel]
    lineage: Lineage
    selection: Selection
    images: Mapping[int, PromptImages]  # of the selected prompts
    prompt_files: Mapping[str, PromptFileContent]  # by the key of their prompts artifact


def make_page(material: Material) -> page.Page:
    """Return all that the report's page shows."""
    models, lineage = material.models, material.lineage
    facts = [model.metrics.facts for model in models]
    names = layers.layer_names(models, lineage)
    if isinstance(names, page.Unavailable):
        activations: sections.Charts = [names]
        bits: list[page.BitMap | page.Unavailable] = [names]
    else:
        activations = layers.activations(models, names, lineage)
        bits = [layers.bit_map(model, names) for model in models]
    return page.Page(
        title=_title(models),
        setting=setting_facts(models[0].images.spec, models[0].images.facts),
        models=tuple(map(model_column, models)),
        headline=headline(facts),
        skipped=skipped(facts),
        has_floor=any(one.floor for one in facts),
        grid=picture_grid(models, material.selection, material.images),
        drift=sections.drift(models),
        sensitivity=sections.sensitivity(models, lineage),
        activations=activations,
        losses=sections.losses(models),
        bits=bits,
        frontier=sections.frontier(models),
        lineage=lineage_section(lineage),
        reproduction=reproduction(models, lineage, material.prompt_files),
    )


def _title(models: Sequence[ComparedModel]) -> str:
    *first, last = [model.label for model in models]
    quantized = f"{', '.join(first)} and {last}" if first else last
    return f"{quantized} compared with floating point"


def model_column(model: ComparedModel) -> page.ModelColumn:
    """Return what a reader first asks about a model."""
    spec, facts = model.state.spec, model.state.facts
    choices = {", mixed precision": spec.mixed, f", budget {spec.budget}": spec.budget}
    shown = {"bits": spec.bits + "".join(words for words, holds in choices.items() if holds)}
    for name, average in facts.average_bits.items():
        shown[f"average bits of {name}"] = f"{average:.2f}"
    shown["weights"] = _weight_format(spec)
    shown["activation scales"] = _activations(spec)
    shown["method"] = f"{spec.method}, {spec.iterations} iterations"
    shown["quantized layers"] = str(facts.layers)
    shown["attention products"] = _attention(spec)
    return page.ModelColumn(label=model.label, execution=model.images.spec.engine, facts=shown)


def _weight_format(spec: QuantStateSpec) -> str:
    parts = ["all codes" if spec.full_range else "codes symmetric about zero"]
    if spec.group_size:
        parts.append(f"groups of {spec.group_size}")
    if spec.branch_rank:
        parts.append(f"16-bit branch of rank {spec.branch_rank}")
    return ", ".join(parts)


def _activations(spec: QuantStateSpec) -> str:
    smoothed = ", channels smoothed" if spec.smoothing else ""
    if spec.activations is Activations.TOKEN:
        return f"found at run time, per token and pixel{smoothed}"
    relaxed = f", 10 bits in the {spec.relax} fifth of the timesteps" if spec.relax else ""
    return f"{spec.tables}, {spec.ranges}{relaxed}{smoothed}"


def _attention(spec: QuantStateSpec) -> str:
    if spec.attention_bits is None:
        return "not quantized"
    return f"q, k and v {spec.attention_bits} bits, probabilities {spec.softmax_bits} bits"


# ------------------------------------------------------------------------------- reproduction


def reproduction(
    models: Sequence[ComparedModel], lineage: Lineage, prompt_files: Mapping[str, PromptFileContent]
) -> page.Reproduction | page.Unavailable:
    """Return the commands that compute the same metrics in an empty store, with their prompt files."""
    targets = [ReproductionTarget(m.metrics, m.images, m.state, m.drift) for m in models]
    try:
        commands = script(targets, lineage, prompt_files)
    except MissingArtifact as error:
        return page.Unavailable(f"Not available: {error}.")
    return page.Reproduction(
        commands=(
            "export SDQUANT_STORE=./sdquant-again",
            *_threads(models),
            *commands.lines,
            _report(models),
        ),
        prompts=tuple(_download(name, prompt_files[key]) for key, name in commands.files.items()),
        remarks=(*commands.remarks, *_weights(models)),
    )


def _download(name: str, file: PromptFileContent) -> page.PromptDownload:
    href = f"data:text/plain;charset=utf-8;base64,{base64.b64encode(file.data).decode()}"
    return page.PromptDownload(
        name=name,
        prompts=file.prompts,
        sha256=hashlib.sha256(file.data).hexdigest(),
        href=href if len(file.data) <= PROMPT_BYTES else None,
    )


def _threads(models: Sequence[ComparedModel]) -> list[str]:
    """Return the line that sets the number of threads, if all artifacts were made with the same."""
    counts = set()
    for model in models:
        for manifest in (model.metrics, model.images, model.state):
            counts.add(manifest.provenance.threads)
    return [f"export OMP_NUM_THREADS={counts.pop()}"] if len(counts) == 1 else []


def _report(models: Sequence[ComparedModel]) -> str:
    names = [f"metrics/{model.metrics.key}" for model in models] if len(models) > 1 else []
    return " ".join(["sdquant", "report", *names])


def _weights(models: Sequence[ComparedModel]) -> list[str]:
    """Return which weight files the metrics need."""
    files: dict[str, str] = {}
    for model in models:
        files |= model.metrics.spec.weights
    lines = []
    for name, digest in files.items():
        lines.append(f"`evaluate` needs {name} (sha256 {digest}); see `sdquant doctor`.")
    return lines
