"""A published artifact.

An artifact is the immutable result of one stage: latents, a quantizer state, images. Its key is a hash of
everything that decides its content, that is its spec, the digests of its inputs and the layout of its
arrays; so the same command finds what it has already computed. Its digest is a hash of the bytes that were
stored. It lies in `artifacts/<kind>/<key>/`:

    spec.json             what was asked for
    data.zarr/            the arrays (arrays.py)
    units/000000.json     the receipt of each unit
    manifest.json         spec, facts, inputs, receipts and digest

Work is split into units, each one shard of every array. A unit's receipt, with the sha256 of each shard, is
written once the shards are stored; the manifest is written once all units have a receipt (draft.py). Only
then does the artifact exist for readers, which check what they read against the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self

from typing_extensions import TypeVar

from ..errors import DamagedArtifact, SdquantError
from ..manifests import ArrayInfo, Frozen, Manifest, Ref, Spec, StoredObject, artifact_key
from ..types import Kind
from .documents import read_value, remedy_for
from .objects import Bytes, Objects

if TYPE_CHECKING:
    import numpy as np


def folder(kind: Kind, key: str) -> str:
    """Return the folder of an artifact within the store."""
    return f"artifacts/{kind}/{key}"


def receipt_path(artifact: str, unit: int) -> str:
    """Return the path of a unit's receipt; `artifact` is the artifact's folder."""
    return f"{artifact}/units/{unit:06d}.json"


@dataclass(frozen=True)
class ArraySpec:
    """The layout of an array to be stored.

    Without `unit_rows` one unit holds the whole array; without `chunk_rows` a chunk is a unit.
    """

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    unit_rows: int | None = None
    chunk_rows: int | None = None
    compressed: bool = False
    finite: bool = True  # whether NaN and infinity are refused

    @property
    def info(self) -> ArrayInfo:
        """The layout as manifests hold it."""
        rows = max(1, self.shape[0])
        unit = min(self.unit_rows or rows, rows)
        chunk = min(self.chunk_rows or unit, rows)
        unit = -(-unit // chunk) * chunk  # a shard holds whole chunks
        return ArrayInfo(
            shape=self.shape,
            dtype=self.dtype,
            dims=self.dims,
            chunk_rows=chunk,
            unit_rows=unit,
            compressed=self.compressed,
        )


def key_of(spec: Spec, inputs: dict[str, Ref], arrays: dict[str, ArraySpec]) -> str:
    """Return the key of the artifact with this spec, these inputs and arrays."""
    layout: dict[str, object] = {name: array.info.model_dump(mode="json") for name, array in arrays.items()}
    return artifact_key(spec, inputs, layout)


S = TypeVar("S", bound=Spec, default=Any)
F = TypeVar("F", bound=Frozen, default=Any)


class Artifact(Generic[S, F]):
    """A published artifact: its manifest, and its arrays on request.

    The store returns artifacts of any kind; a subclass stands for one kind and types its spec and facts.
    """

    KIND: ClassVar[Kind]  # of a subclass

    def __init__(self, objects: Objects, manifest: Manifest) -> None:
        self._objects = objects
        self.manifest = manifest
        self.path = folder(manifest.kind, manifest.key)
        self._checked: set[str] = set()  # arrays whose metadata `read` has checked

    @property
    def kind(self) -> Kind:
        """The artifact's kind."""
        return self.manifest.kind

    @property
    def key(self) -> str:
        """The artifact's key: 20 hex digits."""
        return self.manifest.key

    @property
    def name(self) -> str:
        """The artifact's name in commands and messages, `kind/key`."""
        return f"{self.kind}/{self.key}"

    @property
    def ref(self) -> Ref:
        """The pointer that dependent artifacts store."""
        return self.manifest.ref

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """Return an artifact of this class's kind as such; raises ValueError for one of another kind."""
        if artifact.kind is not cls.KIND:
            raise ValueError(f"{artifact.name}: expected {cls.KIND}")
        return cls(artifact._objects, artifact.manifest)

    @property
    def spec(self) -> S:
        """Everything that decides the artifact's content besides its inputs."""
        return self.manifest.spec  # type: ignore[return-value]

    @property
    def facts(self) -> F:
        """Numbers about the artifact that need no arrays."""
        return self.manifest.facts  # type: ignore[return-value]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return rows start..stop of an array, all by default; raises DamagedArtifact."""
        from . import arrays

        self._check_before_reading(name)
        last = self.manifest.arrays[name].shape[0] if stop is None else stop
        return arrays.read_rows(self._objects, self.path, name, start, last)

    def _check_before_reading(self, name: str) -> None:
        """Check sizes and zarr.json once: zarr reads a missing shard as empty and trusts its metadata."""
        if not self._checked:
            self.check_sizes()
        if name not in self._checked:
            for item in self.manifest.metadata:
                if item.path.split("/")[1:-1] in ([], [name]):
                    self._check_bytes(item)
            self._checked.add(name)

    def objects(self) -> Iterator[StoredObject]:
        """Yield every file of the arrays, with its size and digest."""
        yield from self.manifest.metadata
        for receipt in self.manifest.units:
            yield from receipt.objects

    def check_sizes(self) -> None:
        """Raise DamagedArtifact if an object is missing or has another size; costs one listing."""
        present = self._objects.sizes(self.path)
        for item in self.objects():
            self._compare(item, present.get(f"{self.path}/{item.path}"), item.size, "bytes")

    def _check_bytes(self, item: StoredObject) -> None:
        data = self._objects.read(f"{self.path}/{item.path}")
        sha256 = None if data is None else hashlib.sha256(data).hexdigest()
        self._compare(item, sha256, item.sha256, "sha256")

    def _compare(self, item: StoredObject, stored: object, published: object, field: str) -> None:
        if stored != published:
            problem = "is missing" if stored is None else f"has {field} {stored}, published with {published}"
            raise self._damaged(item.path, problem)

    def _damaged(self, path: str, problem: str) -> DamagedArtifact:
        where = f"{self._objects.url}/{self.path}/{path}"
        return DamagedArtifact(f"{where} {problem}; {remedy_for(self.kind, self.key)}")

    # --------------------------------------------------------------------------- verifying

    def verify(self) -> None:
        """Raise DamagedArtifact unless every stored file is as it was published."""
        for error in self.damage():
            raise error

    def damage(self) -> Iterator[SdquantError]:
        """Yield an error for each stored file that is not as it was published."""
        checks: list[Callable[[], None]] = [partial(self._check_bytes, item) for item in self.objects()]
        checks += [self._check_digest, partial(self._check_copy, "spec.json", self.spec)]
        for receipt in self.manifest.units:
            path = receipt_path(self.path, receipt.unit).removeprefix(f"{self.path}/")
            checks.append(partial(self._check_copy, path, receipt))
        for check in checks:
            try:
                check()
            except SdquantError as error:
                yield error

    def _check_digest(self) -> None:
        if content_digest(self.objects()) != self.manifest.digest:
            raise self._damaged("manifest.json", "has a digest that does not match its list of objects")

    def _check_copy(self, path: str, value: Frozen) -> None:
        """Raise DamagedArtifact unless a file has the value that the manifest repeats."""
        data = self._objects.read(f"{self.path}/{path}")
        if data is None:
            raise self._damaged(path, "is missing")
        if read_value(type(value), data, f"{self._objects.url}/{self.path}/{path}") != value:
            raise self._damaged(path, "differs from the manifest")


def content_digest(items: Iterable[StoredObject]) -> str:
    """Return the sha256 over (path, size, sha256) of all objects, sorted by path."""
    lines = sorted(f"{item.path} {item.size} {item.sha256}\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def object_of(path: str, data: Bytes) -> StoredObject:
    """Return the description of an object with these bytes."""
    return StoredObject(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
