"""The manifests of artifacts and of everything that they were made from, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import MissingArtifact
from ..manifests import Manifest, Ref
from ..store import Artifact, Store

M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True)
class Lineage:
    """Manifests by the name of their artifact (`kind/key`)."""

    manifests: Mapping[str, Manifest]
    removed: Mapping[str, str]  # name -> the message that says so

    def follow(self, ref: Ref, expected: type[M]) -> M:
        """Return the manifest that a reference points to; raises MissingArtifact if it was removed."""
        name = ref.name
        if name in self.removed:
            raise MissingArtifact(self.removed[name])
        manifest = self.manifests[name]
        if not isinstance(manifest, expected):
            raise TypeError(f"{name}: expected {expected.__name__}, found {type(manifest).__name__}")
        return manifest

    def input(self, manifest: Manifest, role: str, expected: type[M]) -> M:
        """Return an input of an artifact; raises MissingArtifact if it was removed."""
        return self.follow(manifest.inputs[role], expected)


def read_lineage(artifacts: Sequence[Artifact], store: Store) -> Lineage:
    """Read the manifests of artifacts and of all that they were made from.

    Messages about removed artifacts do not name the store: they are read elsewhere.
    """
    manifests: dict[str, Manifest] = {}
    removed: dict[str, str] = {}
    pending = [artifact.ref for artifact in artifacts]
    while pending:
        ref = pending.pop()
        name = ref.name
        if name in manifests or name in removed:
            continue
        try:
            manifests[name] = store.follow(ref).manifest
        except MissingArtifact as error:
            removed[name] = str(error).removeprefix(f"{store.url}: ")
        else:
            pending += manifests[name].inputs.values()
    return Lineage(manifests, removed)
