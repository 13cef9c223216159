"""From artifacts to the command lines that make them again in an empty store.

Each field of a spec is a row of `FLAGS`: the flag that sets it, or where else it comes from; rows of a
spec within a spec are a table of their own. A field without a row raises TypeError, so that a report
never shows commands that forget a setting.
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
    ModelRef,
    QuantStateSpec,
    ReconstructSpec,
    SelectSpec,
    SensitivitySpec,
    Setting,
    TimeTableSpec,
    TrainSpec,
)
from ..prompts import fit_lines
from ..store import Artifact, Store
from ..types import Execution, Kind, Relax, TimePath


@dataclass(frozen=True)
class Only:
    """A field that no flag sets: the one value that this version gives it."""

    value: object


@dataclass(frozen=True)
class Spoken:
    """A field whose None is told as `none`: without the flag a method may choose something else."""

    flag: str
    none: str


INHERITED = None  # the stage takes it from its input artifact
Source = str | Only | Spoken | None

FLAGS: dict[type[Frozen], dict[str, Source]] = {
    LatentsSpec: {
        "setting": INHERITED,  # by SETTING_FLAGS
        "per_prompt": "--per-prompt",
        "seed": "--seed",
        "micro_batch": "--micro-batch",
        "select": INHERITED,  # by its own table
    },
    SelectSpec: {
        "rule": "--select",
        "mean": "--select-mean",
        "deviation": "--select-deviation",
        "variety": "--select-variety",
        "radius": "--select-radius",
    },
    SensitivitySpec: {
        "measure": "--measure",
        "bits": "--bits",
        "latents": "--limit",
        "micro_batch": "--micro-batch",
        "loss": INHERITED,  # the measure's
        "ranges": INHERITED,
        "relax": INHERITED,
    },
    QuantStateSpec: {
        "method": "--method",
        "bits": "--bits",
        "mixed": "--mixed",
        "budget": "--budget",
        "tables": "--tables",
        "ranges": "--ranges",
        "attention_bits": "--attention-bits",
        "softmax_bits": "--softmax-bits",
        "iterations": "--iterations",
        "batch_size": "--batch-size",
        "seed": "--seed",
        "loss": INHERITED,  # by its own table
        "train": INHERITED,  # by its own table
        "pictures": Only(None),
        "reconstruct": INHERITED,  # by its own table
        "split_shortcuts": "--split-shortcuts",
        "relax": Spoken("--relax", Relax.NONE),
        "edges": INHERITED,  # the method's
        "correction": "--correction",
    },
    LossSpec: {"sensitive": "--sensitive-weight", "blocks": "--block-weight", "guided": "--guided-weight"},
    TrainSpec: {
        "what": "--train",
        "rank": "--rank",
        "weight_rate": "--weight-rate",
        "step_rate": "--step-rate",
        "accumulate": "--accumulate",
        "averaging": "--averaging",
        "freezing": "--freezing",
        "teacher": "--teacher-dtype",
        "amp": "--amp",
    },
    ReconstructSpec: {
        "layer_weight": "--layer-weight",
        "drop": "--drop",
        "weight_rate": "--weight-rate",
        "step_rate": "--step-rate",
        **dict.fromkeys(("mixed_inputs", "regulariser", "joint", "second"), INHERITED),  # the method's
    },
    ImagesSpec: {
        "setting": INHERITED,
        "engine": "--engine",
        "seed": "--seed",
        "micro_batch": "--micro-batch",
        "step_match": "--step-match",
    },
    DriftSpec: {
        "setting": INHERITED,
        "prompts": "--drift-prompts",
        "seed": INHERITED,
        "micro_batch": INHERITED,
    },
    TimeTableSpec: dict.fromkeys(TimeTableSpec.model_fields, INHERITED),
    MetricsSpec: {"metrics": INHERITED, "weights": INHERITED},
}
MODEL_FLAGS: dict[str, str | None] = {
    "source": "--model",
    "digest": None,  # follows from the rest
    "revision": "--revision",
    "variant": "--variant",
    "base": "--base",
    "lora": "--lora",
    "lora_scale": "--lora-scale",
}
SETTING_FLAGS: dict[str, str] = {
    "scheduler": "--scheduler",
    "steps": "--steps",
    "guidance_scale": "--guidance-scale",
    "height": "--height",
    "width": "--width",
    "dtype": "--dtype",
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
    """The words that set a spec's fields, and what no flag of this version can set."""
    words: list[str] = []
    unset: list[str] = []
    known = FLAGS.get(type(spec), {})
    for name, about in type(spec).model_fields.items():
        if name not in known:
            raise TypeError(f"{type(spec).__name__}.{name} has no row in stages/commands.py")
        source, value = known[name], getattr(spec, name)
        if isinstance(source, Only):
            if value != source.value:
                unset.append(f"{name} {value}, which this version cannot set (it has {source.value})")
        elif isinstance(source, Spoken):
            words += [source.flag, value or source.none]
        elif isinstance(value, Frozen) and type(value) in FLAGS:
            found = spec_flags(value)
            words, unset = words + found[0], unset + found[1]
        elif source is not None and value is False and about.default is None:
            words.append(f"--no-{source.removeprefix('--')}")
        elif source is not None and value is not None and value is not False:
            words += [source] if value is True else [source, str(value)]
    return words, unset


def setting_flags(setting: Setting) -> list[str]:
    """The words that make a setting anew."""
    values = {MODEL_FLAGS[name]: getattr(setting.model, name) for name in ModelRef.model_fields}
    values |= {
        SETTING_FLAGS[name]: getattr(setting, name) for name in Setting.model_fields if name != "model"
    }
    return [
        word for flag, value in values.items() if flag and value is not None for word in (flag, str(value))
    ]


def prompt_file(prompts: Artifact) -> tuple[str, bytes]:
    """Name and bytes of a file that holds a prompts artifact's prompts, exactly."""
    found, stem = Prompts.of(prompts).texts(), PurePath(prompts.facts.source).stem
    if fit_lines(found):
        return f"{stem}.txt", "".join(f"{prompt}\n" for prompt in found).encode()
    return f"{stem}.jsonl", "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in found).encode()
