"""A store of artifacts: find, begin, tag, list, verify, remove."""

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from ..errors import DamagedArtifact, MissingArtifact, NewerFormat, UsageProblem
from ..manifests import FORMAT, Manifest, Provenance, Ref, Spec, artifact_key
from ..types import Kind
from ..version import __version__
from .artifact import ArraySpec, Artifact, Draft, folder, parse_manifest
from .objects import Objects

HEADER = "sdquant-store.json"
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


class Store:
    """Artifacts under one URL: a folder, or `s3://bucket/prefix`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects = Objects(url)
        header = self.objects.read(HEADER)
        if header is None:
            if self.objects.sizes("artifacts"):
                raise DamagedArtifact(f"{url}: artifacts without {HEADER}; restore that file from a backup")
            return
        try:
            version = int(json.loads(header)["format"])
        except (ValueError, KeyError, TypeError):
            raise DamagedArtifact(f'{url}/{HEADER}: expected {{"format": {FORMAT}}}') from None
        if version > FORMAT:
            raise NewerFormat(
                f"{url}: store format {version}, this sdquant reads up to {FORMAT}; upgrade with "
                f"`pip install -U sdquant`"
            )

    # ------------------------------------------------------------------------------ making

    def begin(
        self, spec: Spec, inputs: dict[str, Ref], arrays: dict[str, ArraySpec], units: int = 1
    ) -> Artifact | Draft:
        """The published artifact of this spec and these inputs, or a draft to fill."""
        layout = {name: array.info for name, array in arrays.items()}
        key = artifact_key(spec, inputs, {n: i.model_dump(mode="json") for n, i in layout.items()})
        published = self.find(spec.kind, key)
        if published is not None:
            published.check_sizes()
            return published
        self._open(folder(spec.kind, key))
        return Draft(self.objects, spec, key, inputs, layout, units)

    def _open(self, path: str) -> None:  # noqa: ARG002
        """Something is about to be made at `path`."""
        self.objects.create(HEADER, json.dumps({"format": FORMAT}).encode())

    def provenance(self, threads: int) -> Provenance:
        """Everything but what it took, which the draft knows."""
        packages = ("torch", "diffusers", "transformers", "zarr", "numpy")
        return Provenance(
            sdquant=__version__,
            python=platform.python_version(),
            packages={name: importlib.metadata.version(name) for name in packages},
            threads=threads,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    # ----------------------------------------------------------------------------- finding

    def find(self, kind: Kind, key: str) -> Artifact | None:
        path = f"{folder(kind, key)}/manifest.json"
        data = self.objects.read(path)
        if data is None:
            return None
        return Artifact(self.objects, parse_manifest(kind, data, f"{self.url}/{path}"))

    def follow(self, ref: Ref) -> Artifact:
        """The artifact that a manifest points to; raises MissingArtifact if it was removed."""
        found = self.find(ref.kind, ref.key)
        if found is None:
            raise MissingArtifact(
                f"{self.url}: {ref.kind}/{ref.key} was removed; make it with `{MADE_BY[ref.kind]}`"
            )
        return found

    def latest(self, kind: Kind, tag: str = "latest") -> Artifact | None:
        """The artifact that a tag names, if it is still there."""
        history = self._tag_history(kind, tag)
        return self.find(kind, history[-1]) if history else None

    def need(self, kind: Kind, tag: str = "latest") -> Artifact:
        """The tagged artifact; raises MissingArtifact that names the command to run."""
        found = self.latest(kind, tag)
        if found is None:
            raise MissingArtifact(f"{self.url}: no {kind} artifact; make it with `{MADE_BY[kind]}`")
        found.check_sizes()
        return found

    def resolve(self, text: str) -> Artifact:
        """An artifact by `kind`, `kind/key`, `kind/tag` or the beginning of a key."""
        kind_text, _, name = text.partition("/")
        if kind_text in set(Kind):
            kind = Kind(kind_text)
            found = self.find(kind, name) if name else None
            return found or self.need(kind, name or "latest")
        matches = [a for a in self.artifacts() if a.manifest.key.startswith(text)]
        if len(matches) == 1:
            return matches[0]
        what = "no artifact" if not matches else f"{len(matches)} artifacts"
        raise MissingArtifact(f"{self.url}: {what} named {text!r}; `sdquant ls` shows what is there")

    def artifacts(self) -> list[Artifact]:
        """All published artifacts, oldest first."""
        found = []
        for path in self.objects.sizes("artifacts"):
            parts = path.split("/")
            if len(parts) == 4 and parts[3] == "manifest.json" and parts[1] in set(Kind):
                artifact = self.find(Kind(parts[1]), parts[2])
                if artifact is not None:
                    found.append(artifact)
        return sorted(found, key=lambda a: (a.manifest.provenance.created_at, a.manifest.kind))

    def dependents(self, manifest: Manifest) -> list[Artifact]:
        """Artifacts that were made directly from this one."""
        return [a for a in self.artifacts() if any(r.key == manifest.key for r in a.manifest.inputs.values())]

    # ----------------------------------------------------------------------------- changing

    def tag(self, artifact: Artifact, name: str = "latest") -> None:
        """Let a tag name this artifact from now on; the tag's history is kept."""
        kind, key = artifact.manifest.kind, artifact.manifest.key
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise UsageProblem(f"tag {name!r}: expected letters, digits, '-', '_' and '.'")
        history = self._tag_history(kind, name)
        if history and history[-1] == key:
            return
        number = len(history)
        while not self.objects.create(
            f"tags/{kind}/{name}/{number:08d}.json", json.dumps({"key": key}).encode()
        ):
            number += 1  # another writer took this number

    def tags(self) -> dict[str, list[str]]:
        """Key of an artifact -> the tags that name it now."""
        heads: dict[str, list[str]] = {}
        names = {tuple(p.split("/")[1:3]) for p in self.objects.sizes("tags")}
        for kind, name in sorted(names):
            history = self._tag_history(Kind(kind), name)
            heads.setdefault(history[-1], []).append(name)
        return heads

    def _tag_history(self, kind: Kind, name: str) -> list[str]:
        paths = sorted(self.objects.sizes(f"tags/{kind}/{name}"))
        return [json.loads(self.objects.read(path) or b"{}")["key"] for path in paths]

    def remove(self, artifact: Artifact, *, force: bool = False) -> None:
        """Delete an artifact; raises UsageProblem while others depend on it, unless forced."""
        needed_by = self.dependents(artifact.manifest)
        if needed_by and not force:
            names = ", ".join(f"{a.manifest.kind}/{a.manifest.key}" for a in needed_by)
            raise UsageProblem(
                f"{artifact.path.removeprefix('artifacts/')}: {names} depend on it; remove those first"
            )
        manifest = f"{artifact.path}/manifest.json"
        self.objects.delete([manifest])  # first: from here on no reader sees it
        self.objects.delete([p for p in self.objects.sizes(artifact.path) if p != manifest])
        if self.objects.local is not None:
            for place, _, _ in os.walk(self.objects.local / artifact.path, topdown=False):
                Path(place).rmdir()


class Chained(Store):
    """A store for stages that run one after the other: what they tag is theirs as long as this lasts.

    Another process that tags what it made meanwhile does not come between them.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._tagged: dict[tuple[Kind, str], Artifact] = {}

    def tag(self, artifact: Artifact, name: str = "latest") -> None:
        super().tag(artifact, name)
        self._tagged[artifact.manifest.kind, name] = artifact

    def latest(self, kind: Kind, tag: str = "latest") -> Artifact | None:
        return self._tagged.get((kind, tag)) or super().latest(kind, tag)


class Absent(Exception):
    """What a Glance was asked to begin is not in the store."""


class Glance(Chained):
    """A store that is only looked at: beginning what is absent raises Absent, and tags are not written.

    Stages run on it as far as their artifacts are there.
    """

    def _open(self, path: str) -> None:
        raise Absent(path)

    def tag(self, artifact: Artifact, name: str = "latest") -> None:
        self._tagged[artifact.manifest.kind, name] = artifact
