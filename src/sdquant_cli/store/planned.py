"""A store for planning: artifacts that a chain of stages would make, as later stages would read them."""

from collections.abc import Mapping, Sequence

from ..manifests import MANIFESTS, Frozen, Ref, Spec
from ..types import Kind
from .artifact import Artifact, key_of
from .store import ReadOnlyStore


class PlannedStore(ReadOnlyStore):
    """A read-only store that also has artifacts without arrays, for as long as this object lives."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._planned: dict[tuple[Kind, str], Artifact] = {}

    def plan(self, spec: Spec, facts: Frozen, inputs: Mapping[str, Ref], tags: Sequence[str]) -> bool:
        """Add an artifact as far as it is known before it is made; return whether it is a new one."""
        key = key_of(spec, dict(inputs), {})
        is_new = (spec.kind, key) not in self._planned
        manifest = MANIFESTS[spec.kind](
            kind=spec.kind,
            key=key,
            digest=key,
            inputs=dict(inputs),
            arrays={},
            metadata=(),
            units=(),
            provenance=self.provenance(threads=0),
            spec=spec,
            facts=facts,
        )
        artifact = self._planned.setdefault((spec.kind, key), Artifact(self.objects, manifest))
        for tag in tags:
            self.tag(artifact, tag)
        return is_new

    def find(self, kind: Kind, key: str) -> Artifact | None:
        """Return the artifact planned or published under a key, or None."""
        return self._planned.get((kind, key)) or super().find(kind, key)
