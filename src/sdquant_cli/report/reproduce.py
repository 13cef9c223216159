"""From artifacts to the command lines that make them again in an empty store.

The options say which flag sets a field of a spec; `_WITHOUT_FLAG` has the fields that none sets. A field
in neither raises TypeError, so that a report never shows commands that forget a setting.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from ..artifacts.lineage import Lineage
from ..manifests import (
    DriftSpec,
    Frozen,
    ImagesSpec,
    LatentsSpec,
    LossSpec,
    Manifest,
    MetricsSpec,
    QuantStateSpec,
    ReconstructSpec,
    SelectSpec,
    SensitivitySpec,
    Setting,
    TimeTableSpec,
    TrainSpec,
)
from ..manifests.kinds import (
    DriftManifest,
    ImagesManifest,
    LatentsManifest,
    MetricsManifest,
    PromptsManifest,
    QuantStateManifest,
    SensitivityManifest,
    TimeTableManifest,
)
from ..options.commands import flags_by_spec
from ..options.option import Flag
from ..prompts import fit_lines
from ..types import Execution, Kind, TimePath


@dataclass(frozen=True)
class Only:
    """A field that no flag sets: the one value that this version gives it."""

    value: object


INHERITED = None  # the stage takes it from its input artifact, or the method decides it
Source = Flag | Only | None

_WITHOUT_FLAG: dict[type[Frozen], dict[str, Source]] = {
    LatentsSpec: {"setting": INHERITED, "select": INHERITED},
    SelectSpec: {},
    SensitivitySpec: dict.fromkeys(
        ("loss", "activations", "ranges", "relax", "full_range", "ranking"), INHERITED
    ),
    QuantStateSpec: {
        "loss": INHERITED,
        "train": INHERITED,
        "reconstruct": INHERITED,
        "pictures": Only(None),
    },
    LossSpec: {},
    TrainSpec: {"rate_by_layer": INHERITED},
    ReconstructSpec: {
        "mixed_inputs": INHERITED,
        "regulariser": INHERITED,
        "joint": INHERITED,
        "second": INHERITED,
    },
    ImagesSpec: {"setting": INHERITED},
    DriftSpec: {
        "setting": INHERITED,
        "seed": INHERITED,
        "micro_batch": INHERITED,
        "step_match": INHERITED,
    },
    TimeTableSpec: dict.fromkeys(TimeTableSpec.model_fields, INHERITED),
    MetricsSpec: {"metrics": INHERITED, "weights": INHERITED},
}


def _flags_of_fields(spec: type[Frozen]) -> dict[str, Flag]:
    """Return the flags that set a spec's fields, as the options describe them."""
    flags = {}
    for name in spec.model_fields:
        if flag := SPEC_FLAGS.get(f"{spec.__name__}.{name}"):
            flags[name] = flag
    return flags


SPEC_FLAGS = flags_by_spec()
FLAGS: dict[type[Frozen], dict[str, Source]] = {
    spec: {**others, **_flags_of_fields(spec)} for spec, others in _WITHOUT_FLAG.items()
}


@dataclass(frozen=True)
class PromptFileContent:
    """A file that holds a prompts artifact's prompts, exactly."""

    name: str
    data: bytes
    prompts: int


@dataclass(frozen=True)
class ReproductionTarget:
    """The artifacts of one model that the commands make again."""

    metrics: MetricsManifest
    images: ImagesManifest
    state: QuantStateManifest
    drift: DriftManifest | None = None


@dataclass
class Script:
    """Command lines in order, and what they need."""

    lineage: Lineage
    prompt_files: Mapping[str, PromptFileContent]  # by the key of their prompts artifact
    lines: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # key of a prompts artifact -> name of its file
    remarks: list[str] = field(default_factory=list)
    _latest: dict[Kind, str] = field(default_factory=dict)  # what the next stage would read

    def add(self, verb: str, *words: str) -> None:
        """Add a command line."""
        self.lines.append(shlex.join(["sdquant", verb, *words]))

    def make(self, target: ReproductionTarget) -> None:
        """Add all stages of one model; those whose artifact is the latest already are left out."""
        self._calibrate(target.state)
        self._generate(target.images, target.state.facts.setting)
        self._evaluate(target)

    def _calibrate(self, state: QuantStateManifest) -> None:
        latents = self.lineage.input(state, "latents", LatentsManifest)
        table = self.lineage.input(state, "time-table", TimeTableManifest)
        self._sample(latents)
        self._tabulate(table)
        if "sensitivity" in state.inputs:
            self._rank(self.lineage.input(state, "sensitivity", SensitivityManifest))
        self._sample(latents)
        time_path = [] if table.spec.bits is None else ["--time-path", TimePath.QUANTIZED]
        self.add("calibrate", *self._flags(state), *time_path)

    def _generate(self, images: ImagesManifest, calibrated: Setting) -> None:
        setting, calibrated, changed = images.spec.setting.as_requested, calibrated.as_requested, []
        for name, flag in _flags_of_fields(Setting).items():
            if getattr(setting, name) != getattr(calibrated, name):
                changed += flag.words(getattr(setting, name))
        self.add("generate", "--prompts", self._file(images), *changed, *self._flags(images))

    def _evaluate(self, target: ReproductionTarget) -> None:
        reference = self.lineage.input(target.metrics, "reference", ImagesManifest)
        if reference.spec != target.images.spec.model_copy(update={"engine": Execution.FP}):
            self.remarks.append(
                f"The reference was images/{reference.key}, which `--against fp` does not generate."
            )
        drift = ["--drift", *self._flags(target.drift)] if target.drift else []
        floor = [] if "floor" in target.metrics.inputs else ["--no-floor"]
        self.add("evaluate", "--against", "fp", *floor, *drift, *self._flags(target.metrics))

    def _sample(self, latents: LatentsManifest) -> None:
        if self._latest.get(Kind.LATENTS) != latents.key:
            setting = setting_flags(latents.spec.setting.as_requested)
            self.add("sample", "--prompts", self._file(latents), *setting, *self._flags(latents))
            self._latest[Kind.LATENTS] = latents.key

    def _tabulate(self, table: TimeTableManifest) -> None:
        made_by_calibrate = table.spec.bits is not None
        if not made_by_calibrate and self._latest.get(Kind.TIME_TABLE) != table.key:
            self.add("precalc-time", *self._flags(table))
            self._latest[Kind.TIME_TABLE] = table.key

    def _rank(self, ranking: SensitivityManifest) -> None:
        if self._latest.get(Kind.SENSITIVITY) != ranking.key:
            self._sample(self.lineage.input(ranking, "latents", LatentsManifest))
            self.add("sensitivity", *self._ranking_flags(ranking))
            self._latest[Kind.SENSITIVITY] = ranking.key

    def _ranking_flags(self, ranking: SensitivityManifest) -> list[str]:
        """Return the flags of a ranking; for one that a file listed, they name a file of all its layers."""
        if ranking.spec.ranking is None:
            return self._flags(ranking)
        file, spec = f"ranking-{ranking.key[:6]}.txt", ranking.spec
        self.remarks.append(
            f"{file} is a list of the {len(ranking.facts.ranking)} layers of {ranking.ref.name}, one a line: "
            f"`sdquant show {ranking.ref.name} --json` has it as `ranking`."
        )
        return ["--ranking", file, "--bits", spec.bits, "--micro-batch", str(spec.micro_batch)]

    def _flags(self, manifest: Manifest) -> list[str]:
        words, unset = spec_flags(manifest.spec)
        for text in unset:
            self.remarks.append(f"{manifest.ref.name} has {text}.")
        return words

    def _file(self, manifest: LatentsManifest | ImagesManifest) -> str:
        """Return the name of the file that holds an artifact's prompts."""
        key = self.lineage.input(manifest, "prompts", PromptsManifest).key
        if key not in self.files:
            name = self.prompt_files[key].name
            self.files[key] = f"{key[:6]}-{name}" if name in self.files.values() else name
        return self.files[key]


def script(
    targets: Sequence[ReproductionTarget], lineage: Lineage, prompt_files: Mapping[str, PromptFileContent]
) -> Script:
    """Return commands for an empty store; raises MissingArtifact if an ancestor was removed."""
    commands = Script(lineage, prompt_files)
    # `calibrate` reads the latest ranking if there is one: models without a ranking come first
    for target in sorted(targets, key=lambda target: "sensitivity" in target.state.inputs):
        commands.make(target)
    return commands


def spec_flags(spec: Frozen) -> tuple[list[str], list[str]]:
    """Return the words that set a spec's fields, and a text for each field that no flag can set."""
    words: list[str] = []
    unset: list[str] = []
    known = FLAGS.get(type(spec), {})
    for name in type(spec).model_fields:
        if name not in known:
            raise TypeError(f"{type(spec).__name__}.{name}: no option sets it, and reproduce.py has no row")
        source, value = known[name], getattr(spec, name)
        if isinstance(source, Only):
            if value != source.value:
                unset.append(f"{name} {value}, which this version cannot set (it has {source.value})")
        elif isinstance(value, Frozen) and type(value) in FLAGS:
            inner_words, inner_unset = spec_flags(value)
            words += inner_words
            unset += inner_unset
        elif source is not None:
            words += source.words(value)
    return words, unset


def setting_flags(setting: Setting) -> list[str]:
    """Return the words that make a setting again."""
    words = []
    for part in (setting.model, setting):
        for name, flag in _flags_of_fields(type(part)).items():
            words += flag.words(getattr(part, name))
    return words


def prompt_file(source: str, prompts: Sequence[str]) -> PromptFileContent:
    """Return a file that holds prompts exactly, named like their source: text, or JSON lines if need be."""
    lines, suffix = list(prompts), "txt"
    if not fit_lines(prompts):
        lines, suffix = [json.dumps({"prompt": prompt}) for prompt in prompts], "jsonl"
    text = "\n".join([*lines, ""])
    return PromptFileContent(f"{PurePath(source).stem}.{suffix}", text.encode(), len(prompts))
