"""From artifacts to the command lines that make them again in an empty store.

The options say which flag sets a field of a spec; `_WITHOUT_FLAG` has the fields that none sets. A field
in neither raises TypeError, so that a report never shows commands that forget a setting.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from ..artifacts.prompts import Prompts
from ..manifests import (
    DriftSpec,
    Frozen,
    ImagesSpec,
    LatentsSpec,
    LossSpec,
    MetricsSpec,
    QuantStateSpec,
    ReconstructSpec,
    SelectSpec,
    SensitivitySpec,
    Setting,
    TimeTableSpec,
    TrainSpec,
)
from ..options.commands import flags_by_spec
from ..options.option import Flag
from ..prompts import fit_lines
from ..store import Artifact, Store
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
    SensitivitySpec: {"loss": INHERITED, "ranges": INHERITED, "relax": INHERITED},
    QuantStateSpec: {
        "loss": INHERITED,
        "train": INHERITED,
        "reconstruct": INHERITED,
        "edges": INHERITED,
        "pictures": Only(None),
    },
    LossSpec: {},
    TrainSpec: {},
    ReconstructSpec: {
        "mixed_inputs": INHERITED,
        "regulariser": INHERITED,
        "joint": INHERITED,
        "second": INHERITED,
    },
    ImagesSpec: {"setting": INHERITED},
    DriftSpec: {"setting": INHERITED, "seed": INHERITED, "micro_batch": INHERITED},
    TimeTableSpec: dict.fromkeys(TimeTableSpec.model_fields, INHERITED),
    MetricsSpec: {"metrics": INHERITED, "weights": INHERITED},
}


def _flags_of_fields(spec: type[Frozen]) -> dict[str, Flag]:
    """Return the flags that set a spec's fields, as the options describe them."""
    names = {name: f"{spec.__name__}.{name}" for name in spec.model_fields}
    return {name: SPEC_FLAGS[field] for name, field in names.items() if field in SPEC_FLAGS}


SPEC_FLAGS = flags_by_spec()
FLAGS: dict[type[Frozen], dict[str, Source]] = {
    spec: {**others, **_flags_of_fields(spec)} for spec, others in _WITHOUT_FLAG.items()
}


@dataclass(frozen=True)
class ReproductionTarget:
    """One model's artifacts, to be made again."""

    metrics: Artifact
    images: Artifact
    state: Artifact
    drift: Artifact | None = None


@dataclass
class Script:
    """Command lines in order, and what they need."""

    store: Store
    lines: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # key of a prompts artifact -> its file
    remarks: list[str] = field(default_factory=list)
    _latest: dict[Kind, str] = field(default_factory=dict)  # what the next stage would read

    def add(self, verb: str, *words: str) -> None:
        self.lines.append(shlex.join(["sdquant", verb, *words]))

    def make(self, goal: ReproductionTarget) -> None:
        """All stages of one model; those whose artifact is the latest already are left out."""
        inputs = goal.state.manifest.inputs
        latents = self.store.follow(inputs["latents"])
        self._sample(latents)
        self._tabulate(self.store.follow(inputs["time-table"]))
        if "sensitivity" in inputs:
            self._rank(self.store.follow(inputs["sensitivity"]))
        self._sample(latents)
        rounded_time = self.store.follow(inputs["time-table"]).spec.bits is not None
        time_path = ["--time-path", TimePath.QUANTIZED] if rounded_time else []
        self.add("calibrate", *self._flags(goal.state), *time_path)
        prompts = self.store.follow(goal.images.manifest.inputs["prompts"])
        drawn, schedule = goal.images.spec, []
        if drawn.step_match:  # otherwise the state's own
            schedule = ["--scheduler", drawn.setting.scheduler, "--steps", str(drawn.setting.steps)]
        self.add("generate", "--prompts", self._file(prompts), *schedule, *self._flags(goal.images))
        reference = self.store.follow(goal.metrics.manifest.inputs["reference"])
        if reference.spec != goal.images.spec.model_copy(update={"engine": Execution.FP}):
            self.remarks.append(
                f"The reference was images/{reference.manifest.key}, which `--against fp` does not draw."
            )
        drift = ["--drift", *self._flags(goal.drift)] if goal.drift else []
        floor = [] if "floor" in goal.metrics.manifest.inputs else ["--no-floor"]
        self.add("evaluate", "--against", "fp", *floor, *drift, *self._flags(goal.metrics))

    def _sample(self, latents: Artifact) -> None:
        if self._latest.get(Kind.LATENTS) == latents.manifest.key:
            return
        prompts = self.store.follow(latents.manifest.inputs["prompts"])
        setting = setting_flags(latents.spec.setting)
        self.add("sample", "--prompts", self._file(prompts), *setting, *self._flags(latents))
        self._latest[Kind.LATENTS] = latents.manifest.key

    def _tabulate(self, table: Artifact) -> None:
        made_by_calibrate = table.spec.bits is not None
        if not made_by_calibrate and self._latest.get(Kind.TIME_TABLE) != table.manifest.key:
            self.add("precalc-time", *self._flags(table))
            self._latest[Kind.TIME_TABLE] = table.manifest.key

    def _rank(self, ranking: Artifact) -> None:
        if self._latest.get(Kind.SENSITIVITY) == ranking.manifest.key:
            return
        latents = self.store.follow(ranking.manifest.inputs["latents"])
        self._sample(latents)
        self.add("sensitivity", *self._flags(ranking))
        self._latest[Kind.SENSITIVITY] = ranking.manifest.key

    def _flags(self, artifact: Artifact) -> Iterator[str]:
        words, unset = spec_flags(artifact.spec)
        self.remarks += [f"{artifact.name} has {text}." for text in unset]
        return iter(words)

    def _file(self, prompts: Artifact) -> str:
        key = prompts.manifest.key
        if key not in self.files:
            name, _ = prompt_file(prompts)
            taken = name in self.files.values()
            self.files[key] = f"{key[:6]}-{name}" if taken else name
        return self.files[key]


def script(goals: Sequence[ReproductionTarget], store: Store) -> Script:
    """Commands for an empty store; raises MissingArtifact where an ancestor was removed."""
    made = Script(store)
    # `calibrate` reads the latest ranking if there is one: those made without come first
    for goal in sorted(goals, key=lambda goal: "sensitivity" in goal.state.manifest.inputs):
        made.make(goal)
    return made


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


def prompt_file(prompts: Artifact) -> tuple[str, bytes]:
    """Name and bytes of a file that holds a prompts artifact's prompts, exactly."""
    found, stem = Prompts.of(prompts).texts(), PurePath(prompts.facts.source).stem
    if fit_lines(found):
        return f"{stem}.txt", "".join(f"{prompt}\n" for prompt in found).encode()
    return f"{stem}.jsonl", "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in found).encode()
