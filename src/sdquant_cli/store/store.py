"""A store of artifacts: find, begin, list, tag and remove them."""

import importlib.metadata
import json
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from ..errors import (
    DamagedArtifact,
    EnvironmentProblem,
    MissingArtifact,
    NewerFormat,
    SdquantError,
    UsageProblem,
)
from ..events import SILENT, Events
from ..manifests import Manifest, Provenance, Ref, Spec
from ..ranks import current
from ..types import Kind
from ..version import __version__
from .artifact import ArraySpec, Artifact, folder, key_of
from .documents import CONDEMNED, read_document, read_manifest
from .draft import Draft
from .leases import pauses
from .objects import Objects
from .scratch import Busy, clear, scratch_of
from .tags import KEY, Tags

HEADER = "sdquant-store.json"
FORMAT = 1  # of the store: its paths
LOOKS_IN_SILENCE = 5  # at what another process computes: about two seconds
MADE_BY = {
    Kind.PROMPTS: "sdquant sample --prompts FILE",
    Kind.TEXT_EMBEDS: "sdquant sample --prompts FILE",
    Kind.LATENTS: "sdquant sample --prompts FILE",
    Kind.TIME_TABLE: "sdquant precalc-time",
    Kind.SENSITIVITY: "sdquant sensitivity",
    Kind.QUANT_STATE: "sdquant calibrate --bits w4a8",
    Kind.IMAGES: "sdquant generate",
    Kind.FEATURES: "sdquant evaluate --against fp",
    Kind.DRIFT: "sdquant evaluate --drift",
    Kind.METRICS: "sdquant evaluate --against fp",
    Kind.LEADERBOARD: "sdquant leaderboard --prompts FILE",
}
PACKAGES = ("torch", "diffusers", "transformers", "zarr", "numpy")  # that decide results


@cache
def _package_version(name: str) -> str:
    return importlib.metadata.version(name)


@dataclass(frozen=True)
class Entry:
    """An artifact in any state; it is unfinished if it has neither artifact nor problem."""

    kind: Kind
    key: str
    artifact: Artifact | None = None
    problem: SdquantError | None = None  # why its manifest cannot be read

    @property
    def name(self) -> str:
        """The artifact's name in commands and messages, `kind/key`."""
        return f"{self.kind}/{self.key}"

    @property
    def state(self) -> str:
        """One of published, unfinished, damaged, newer, unreadable."""
        if self.problem:
            return _STATES[type(self.problem)]
        return "published" if self.artifact else "unfinished"

    def published(self) -> Artifact:
        """Return the artifact; raises the entry's problem, or MissingArtifact if it is unfinished."""
        if self.problem:
            raise self.problem
        if self.artifact is None:
            raise MissingArtifact(f"{self.name} is unfinished; run the command that began it again to resume")
        return self.artifact


_STATES: dict[type, str] = {
    DamagedArtifact: "damaged",
    NewerFormat: "newer",
    EnvironmentProblem: "unreadable",
}


class Store:
    """The artifacts under one URL, a folder or `s3://bucket/prefix`; warnings go to `events`."""

    def __init__(self, url: str, events: Events = SILENT) -> None:
        self.url, self.events = url, events
        self.objects = Objects(url)
        self.tag_entries = Tags(self.objects)
        header = self.objects.read(HEADER)
        if header is not None:
            where = f"{url}/{HEADER}"
            if "format" not in read_document(header, where, FORMAT):
                raise DamagedArtifact(f'{where} is damaged: expected {{"format": {FORMAT}}}')
        elif self.names():
            raise DamagedArtifact(f"{url}: artifacts without {HEADER}; restore that file from a backup")

    # ------------------------------------------------------------------------------ making

    def begin(
        self, spec: Spec, inputs: dict[str, Ref], arrays: dict[str, ArraySpec], units: int = 1
    ) -> Artifact | Draft:
        """Return the published artifact of this spec and these inputs, or a draft to fill.

        Waits while another process of this machine computes an artifact of one unit.
        """
        key = key_of(spec, inputs, arrays)
        for _ in self._looks(f"{spec.kind}/{key}"):
            published = self.find(spec.kind, key)
            if published is not None:
                published.check_sizes()
                self._clear_scratch(published)
                return published
            self._prepare(folder(spec.kind, key))
            with suppress(Busy):
                return Draft(self.objects, spec, inputs, arrays, units, self.events)
        raise AssertionError

    def wait_for(self, kind: Kind, key: str) -> Artifact:
        """Return the artifact of a key as soon as another process has published it."""
        for _ in self._looks(f"{kind}/{key}"):
            published = self.find(kind, key)
            if published is not None:
                return published
        raise AssertionError

    def _looks(self, name: str) -> Iterator[None]:
        """Yield without end, after pauses, for looks at another process's work; say so if it takes long."""
        for look, _ in enumerate(pauses()):
            if look == LOOKS_IN_SILENCE:
                self.events.note(f"waiting for another process, which computes {name}")
            yield

    def _prepare(self, path: str) -> None:  # noqa: ARG002
        """Write the store's header before an artifact is begun at `path`; raises EnvironmentProblem.

        A server that creates the header a second time overwrites objects, and is refused.
        """
        header = json.dumps({"format": FORMAT}).encode()
        if self.objects.create(HEADER, header) and self.objects.create(HEADER, header):
            raise EnvironmentProblem(
                f"{self.url}: the server overwrites objects that it is asked to create (If-None-Match), so "
                f"that processes would damage each other's work; use a folder, or another server as --store"
            )

    def _clear_scratch(self, published: Artifact) -> None:
        """Remove the scratch folder of a run that was killed after publishing."""
        with suppress(EnvironmentProblem):  # the process that has just published removes it itself
            clear(scratch_of(self.objects, published.kind, published.key), published.path)

    def provenance(self, threads: int) -> Provenance:
        """Return the provenance of an artifact made now, without time and memory, which the draft adds."""
        return Provenance(
            sdquant=__version__,
            python=platform.python_version(),
            packages={name: _package_version(name) for name in PACKAGES},
            threads=threads,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            ranks=current().count,
        )

    # ----------------------------------------------------------------------------- finding

    def find(self, kind: Kind, key: str) -> Artifact | None:
        """Return the artifact published under a key, or None; raises DamagedArtifact or NewerFormat."""
        path = f"{folder(kind, key)}/manifest.json"
        data = self.objects.read(path) if KEY.fullmatch(key) else None
        if data is None or data == CONDEMNED:
            return None
        return Artifact(self.objects, read_manifest(kind, key, data, f"{self.url}/{path}"))

    def follow(self, ref: Ref) -> Artifact:
        """Return the artifact that a reference points to; raises MissingArtifact if it was removed."""
        artifact = self.find(ref.kind, ref.key)
        if artifact is None:
            raise MissingArtifact(f"{self.url}: {ref.name} was removed; make it with `{MADE_BY[ref.kind]}`")
        return artifact

    def _tagged_key(self, kind: Kind, tag: str) -> str | None:
        return self.tag_entries.key(kind, tag)

    def latest(self, kind: Kind, tag: str = "latest") -> Artifact | None:
        """Return the artifact that a tag names, or None."""
        key = self._tagged_key(kind, tag)
        return self.find(kind, key) if key else None

    def need(self, kind: Kind, tag: str = "latest") -> Artifact:
        """Return the artifact that a tag names; raises MissingArtifact that names the command to run."""
        key = self._tagged_key(kind, tag)
        artifact = self.find(kind, key) if key else None
        if artifact is None:
            problem = f"{kind}/{key}, tagged {tag}, was removed" if key else f"no {kind} artifact"
            raise MissingArtifact(f"{self.url}: {problem}; make it with `{MADE_BY[kind]}`")
        artifact.check_sizes()
        return artifact

    def resolve(self, text: str) -> Artifact:
        """Return a published artifact named by `kind`, `kind/key`, `kind/tag` or the beginning of a key."""
        kind, _, name = text.partition("/")
        if kind in set(Kind) and not KEY.fullmatch(name):
            return self.need(Kind(kind), name or "latest")
        return self.locate(text).published()

    def locate(self, text: str) -> Entry:
        """Return the entry of an artifact in any state, named as for `resolve`."""
        kind_text, _, name = text.partition("/")
        if kind_text in set(Kind):
            kind = Kind(kind_text)
            key = name if KEY.fullmatch(name) else self._tagged_key(kind, name or "latest")
            matches = [(kind, key)] if key and key in self.objects.folders(f"artifacts/{kind}") else []
            what = f"{kind} artifact"
        else:
            matches = [(kind, key) for kind, key in self.names() if text and key.startswith(text)]
            what = "artifact"
        if len(matches) == 1:
            return self._entry(matches[0])
        number = f"{len(matches)} {what}s" if matches else f"no {what}"
        raise MissingArtifact(f"{self.url}: {number} named {text!r}; `sdquant ls` lists artifacts")

    def is_unfinished(self, kind: Kind, key: str) -> bool:
        """Tell if an artifact has no manifest, not even a damaged one."""
        return self.objects.read(f"{folder(kind, key)}/manifest.json") in (None, CONDEMNED)

    def names(self) -> list[tuple[Kind, str]]:
        """Return kind and key of every artifact's folder."""
        return [
            (kind, key)
            for kind in Kind
            for key in self.objects.folders(f"artifacts/{kind}")
            if KEY.fullmatch(key)
        ]

    def _entry(self, name: tuple[Kind, str]) -> Entry:
        """Return the entry of a kind and key."""
        try:
            return Entry(*name, artifact=self.find(*name))
        except (DamagedArtifact, NewerFormat, EnvironmentProblem) as error:
            return Entry(*name, problem=error)

    def entries(self) -> list[Entry]:
        """Return the entries of all artifacts, published ones first, oldest first."""
        entries = self.objects.each(self._entry, self.names())
        return sorted(entries, key=_age)

    def artifacts(self) -> list[Artifact]:
        """Return all published artifacts, oldest first; warns about manifests that cannot be read."""
        entries = self.entries()
        for entry in entries:
            if isinstance(entry.problem, EnvironmentProblem):
                raise entry.problem  # it may be readable next time
            if entry.problem:
                self.events.warn(str(entry.problem))
        return [entry.artifact for entry in entries if entry.artifact]

    def dependents(self, of: Manifest | Artifact | Entry) -> list[Artifact]:
        """Return the artifacts with this one among their inputs, as far as manifests can be read."""
        dependents = []
        for artifact in self.artifacts():
            keys = [ref.key for ref in artifact.manifest.inputs.values()]
            if of.key in keys:
                dependents.append(artifact)
        return dependents

    # ----------------------------------------------------------------------------- changing

    def tag(self, artifact: Artifact, name: str = "latest") -> None:
        """Move a tag to this artifact; the tag's history is kept."""
        self.tag_entries.append(artifact.kind, name, artifact.key)

    def tags(self) -> dict[str, list[str]]:
        """Return the current tags by artifact key; warns about tags that cannot be read."""
        for line in self.tag_entries.gaps():
            self.events.warn(line)
        heads: dict[str, list[str]] = {}
        for kind, name in self.tag_entries.names():
            try:
                key = self.tag_entries.key(kind, name)
            except SdquantError as error:
                self.events.warn(str(error))
            else:
                heads.setdefault(str(key), []).append(name)
        return heads

    def remove(self, which: Artifact | Entry, *, force: bool = False) -> None:
        """Delete an artifact, published or not; raises UsageProblem while others depend on it, unless forced.

        Raises EnvironmentProblem while a process is computing it.
        """
        needed_by = self.dependents(which)
        if needed_by and not force:
            names = ", ".join(a.name for a in needed_by)
            raise UsageProblem(f"{which.name}: {names} depend on it; remove those first")
        path = folder(which.kind, which.key)
        clear(scratch_of(self.objects, which.kind, which.key), f"{self.url}/{path}")
        self.objects.remove_folder(path, "manifest.json")  # first, so that readers no longer see it


def _age(entry: Entry) -> tuple[str, str]:
    """Return a sort key: by date, unpublished artifacts last."""
    created = entry.artifact.manifest.provenance.created_at if entry.artifact else "~"
    return created, entry.kind


class PinnedStore(Store):
    """A store for stages that run in sequence: its tags stay where these stages moved them.

    A tag moved by another process meanwhile is not seen.
    """

    def __init__(self, url: str, events: Events = SILENT) -> None:
        super().__init__(url, events)
        self._tagged: dict[tuple[Kind, str], str] = {}

    def tag(self, artifact: Artifact, name: str = "latest") -> None:
        """Move a tag to this artifact, here and in the store."""
        super().tag(artifact, name)
        self._tagged[artifact.kind, name] = artifact.key

    def _tagged_key(self, kind: Kind, tag: str) -> str | None:
        return self._tagged.get((kind, tag)) or super()._tagged_key(kind, tag)


class Absent(Exception):
    """An artifact that a ReadOnlyStore was asked to begin is not in the store."""


class ReadOnlyStore(PinnedStore):
    """A store that nothing is written to: beginning an absent artifact raises Absent.

    Stages run on it as far as their artifacts exist.
    """

    def _prepare(self, path: str) -> None:
        raise Absent(path)

    def _clear_scratch(self, published: Artifact) -> None:
        pass

    def wait_for(self, kind: Kind, key: str) -> Artifact:
        """Return the artifact of a key; raises Absent."""
        artifact = self.find(kind, key)
        if artifact is None:
            raise Absent(folder(kind, key))
        return artifact

    def tag(self, artifact: Artifact, name: str = "latest") -> None:
        """Move a tag to this artifact for this store object only."""
        self._tagged[artifact.kind, name] = artifact.key
