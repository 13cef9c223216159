"""The workspace of a command: store, device, progress events and the models opened so far."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch

from .. import ranks
from ..errors import EnvironmentProblem, UsageProblem, first_line
from ..events import SILENT, Events
from ..manifests import Frozen, Ref, Setting, Spec
from ..models.load import Model, ModelName, find_model
from ..store import ArraySpec, Artifact, Draft, Facts, PinnedStore, ReadOnlyStore, Store, key_of

LATEST = ("latest",)

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Planned:
    """An artifact that a stage would make, as far as its plan knows it."""

    spec: Spec
    facts: Frozen
    inputs: Mapping[str, Ref]
    tags: Sequence[str] = LATEST


@dataclass(frozen=True)
class Plan:
    """The plan of a stage for `--dry-run`: numbers by name, and what later stages of a chain would read."""

    stage: str
    numbers: dict[str, int | float | str] = field(default_factory=dict)
    makes: Planned | None = None


@dataclass(frozen=True)
class Workspace:
    """The store, the device and the events of a command. Each model is opened, and its files hashed, once."""

    store: Store
    events: Events = SILENT
    _device: torch.device | None = None
    _models: dict[tuple[ModelName, bool], Model] = field(default_factory=dict, repr=False)

    def on(self, device: str) -> "Workspace":
        """Return the workspace on a device; raises EnvironmentProblem if it is absent or has no float64."""
        return replace(self, _device=use_device(device))

    def silent(self) -> "Workspace":
        """Return the workspace without progress and notes."""
        return replace(self, events=SILENT)

    def pinned(self) -> "Workspace":
        """Return the workspace for stages that run one after the other: `latest` is what they made."""
        return replace(self, store=PinnedStore(self.store.url, self.events))

    def read_only(self) -> "Workspace":
        """Return the workspace on a store in which nothing is begun: making an artifact raises Absent."""
        return replace(self, store=ReadOnlyStore(self.store.url), events=SILENT)

    @cached_property
    def device(self) -> torch.device:
        """The torch device: that of `on`, else CUDA where there is a GPU."""
        return self._device or use_device("auto")

    # ---------------------------------------------------------------------------- models

    def open(self, name: ModelName, *, split_shortcuts: bool = False) -> Model:
        """Return the model that a user named, opened once."""
        key = name, split_shortcuts
        if key not in self._models:
            self._models[key] = self.open(name).split() if split_shortcuts else find_model(name)
        return self._models[key]

    def model(self, setting: Setting, *, split_shortcuts: bool = False) -> Model:
        """Return the model of a setting; raises UsageProblem if its files have changed since."""
        name = ModelName.from_ref(setting.model)
        if self.open(name).ref.digest != setting.model.digest:
            raise UsageProblem(
                f"--model {setting.model.source}: its files changed since the input artifact was made; "
                f"run `sdquant sample` again"
            )
        return self.open(name, split_shortcuts=split_shortcuts)

    # -------------------------------------------------------------------------- artifacts

    def need(self, kind: type[A], tag: str = "latest") -> A:
        """Return the tagged artifact of a kind; raises MissingArtifact that names the command to run."""
        return kind.of(self.store.need(kind.KIND, tag))

    def latest(self, kind: type[A]) -> A | None:
        """Return the latest artifact of a kind, None if there is none."""
        artifact = self.store.latest(kind.KIND)
        return None if artifact is None else kind.of(artifact)

    def resolve(self, kind: type[A], name: str, flag: str) -> A:
        """Return the artifact that a flag names; raises UsageProblem for one of another kind."""
        artifact = self.store.resolve(name)
        if artifact.kind is not kind.KIND:
            raise UsageProblem(f"{flag} {name}: is {artifact.kind}, expected {kind.KIND}")
        return kind.of(artifact)

    def follow(self, kind: type[A], ref: Ref) -> A:
        """Return the artifact that a manifest points to; raises MissingArtifact if it was removed."""
        return kind.of(self.store.follow(ref))

    def input(self, kind: type[A], artifact: Artifact, role: str) -> A:
        """Return the artifact that another was made from, by its role."""
        return self.follow(kind, artifact.manifest.inputs[role])

    def announce(self, inputs: Mapping[str, Artifact]) -> None:
        """Note the names of the inputs."""
        for role, artifact in inputs.items():
            self.events.note(f"using {role}: {artifact.name}")

    def produce(
        self,
        kind: type[A],
        blueprint: "Blueprint",
        fill: Callable[[Draft], Facts],
        tags: Sequence[str] = LATEST,
        *,
        quiet: bool = False,
        retag: bool = True,
        assist: Callable[[], object] | None = None,
    ) -> A:
        """Return the artifact of a blueprint; where it is absent, `fill` writes its units, returns its facts.

        It gets the tags, unless it was there and `retag` is off. `quiet`: do not say that it was there.
        Ranks share the units. An artifact of one unit is made by the first rank, and the others wait for it;
        meanwhile they run `assist`, whose exchanges with other ranks must be those of `fill`.
        """
        if ranks.current().count > 1:
            machine = {"device": self.device.type, "threads": torch.get_num_threads()}
            ranks.agree(blueprint.identity | machine)
        if blueprint.units == 1 and not ranks.current().is_first:
            artifact, is_new = self._await(blueprint, assist)
        else:
            artifact, is_new = self._make(blueprint, fill, assisted=assist is not None)
        if not is_new:
            tags = tags if retag else ()
            if not quiet:
                self.events.note(f"{artifact.name} is up to date")
        for tag in tags:
            self.store.tag(artifact, tag)
        return kind.of(artifact)

    def _make(
        self, blueprint: "Blueprint", fill: Callable[[Draft], Facts], *, assisted: bool
    ) -> tuple[Artifact, bool]:
        """Return the artifact, and whether it was made now."""
        draft = self.store.begin(blueprint.spec, blueprint.refs, dict(blueprint.arrays), blueprint.units)
        is_new = isinstance(draft, Draft)
        if assisted:
            ranks.broadcast(is_new)
        if not isinstance(draft, Draft):
            return draft, False
        with ranks.alone() if blueprint.units == 1 and not assisted else nullcontext():
            facts = fill(draft)
            return draft.publish(facts, self.store.provenance(torch.get_num_threads())), True

    def _await(self, blueprint: "Blueprint", assist: Callable[[], object] | None) -> tuple[Artifact, bool]:
        """Return the artifact that the first rank makes, and whether it was made now, helped by this one."""
        is_new = assist is not None and ranks.broadcast(True)
        if is_new and assist is not None:
            assist()
        return self.store.wait_for(blueprint.spec.kind, blueprint.key), is_new


@dataclass(frozen=True)
class Blueprint:
    """The inputs to an artifact's key and shape: spec, inputs by role, arrays, and units of work."""

    spec: Spec
    inputs: Mapping[str, Artifact]
    arrays: Mapping[str, ArraySpec]
    units: int = 1

    @property
    def refs(self) -> dict[str, Ref]:
        """The pointers to the inputs, by role."""
        return {role: artifact.ref for role, artifact in self.inputs.items()}

    @property
    def key(self) -> str:
        """The artifact's key."""
        return key_of(self.spec, self.refs, dict(self.arrays))

    @property
    def identity(self) -> dict[str, object]:
        """The values that ranks which make the artifact together must share, by name."""
        fields = {name: value for name, value in self.spec if name != "setting"}
        fields |= dict(getattr(self.spec, "setting", ()))
        digests = {f"input {role}": ref.digest for role, ref in self.refs.items()}
        return {"kind": self.spec.kind, **fields, **digests, "key": self.key}


def use_device(name: str) -> torch.device:
    """Return the torch device of `--device`; raises EnvironmentProblem for one without float64."""
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if kind == "cuda" and ranks.current().count > 1:  # each rank of a machine has a GPU of its own
        kind = f"cuda:{ranks.current().local % max(1, torch.cuda.device_count())}"
    try:
        device = torch.device(kind)
        torch.zeros(1, device=device, dtype=torch.float64).item()  # sums need it; Apple's GPUs have none
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = first_line(error).split(". ")[0]
        raise EnvironmentProblem(f"--device {name}: {reason}; try cpu, cuda, cuda:1 or auto") from None
    torch.backends.cudnn.allow_tf32 = False  # of a GPU: fp32 products keep 23 bits in convolutions too
    torch.backends.cudnn.deterministic = True
    return device
