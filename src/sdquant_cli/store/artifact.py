"""A published artifact: its manifest, and its arrays on request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self

from typing_extensions import TypeVar

from ..errors import DamagedArtifact, SdquantError
from ..manifests import ArrayInfo, Frozen, Manifest, Ref, Spec, StoredObject
from ..types import Kind
from .documents import read_value
from .objects import Objects

if TYPE_CHECKING:
    import numpy as np


def folder(kind: Kind, key: str) -> str:
    return f"artifacts/{kind}/{key}"


def receipt_path(artifact: str, unit: int) -> str:
    return f"{artifact}/units/{unit:06d}.json"


@dataclass(frozen=True)
class ArraySpec:
    """An array to be stored. `unit_rows` None: the whole array belongs to the only unit; `chunk_rows`
    None: a chunk is a unit."""

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    unit_rows: int | None = None
    chunk_rows: int | None = None
    compressed: bool = False
    finite: bool = True  # whether numbers that are not are refused

    @property
    def info(self) -> ArrayInfo:
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
        self._checked: set[str] = set()  # what `read` has found intact

    @property
    def kind(self) -> Kind:
        return self.manifest.kind

    @property
    def key(self) -> str:
        return self.manifest.key

    @property
    def name(self) -> str:
        """The artifact's name in commands and messages, `kind/key`."""
        return f"{self.kind}/{self.key}"

    @property
    def ref(self) -> Ref:
        return self.manifest.ref

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """Return an artifact of this class's kind as such; raises ValueError for one of another kind."""
        if artifact.kind is not cls.KIND:
            raise ValueError(f"{artifact.kind}/{artifact.key}: expected {cls.KIND}")
        return cls(artifact._objects, artifact.manifest)

    @property
    def spec(self) -> S:
        return self.manifest.spec  # type: ignore[return-value]

    @property
    def facts(self) -> F:
        return self.manifest.facts  # type: ignore[return-value]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return rows start..stop of an array, all by default; raises DamagedArtifact."""
        from . import arrays

        self._check_before_reading(name)
        last = self.manifest.arrays[name].shape[0] if stop is None else stop
        return arrays.read_rows(self._objects, self.path, name, start, last)

    def _check_before_reading(self, name: str) -> None:
        """zarr reads a missing shard as empty, and trusts zarr.json: check them once."""
        if not self._checked:
            self.check_sizes()
        if name not in self._checked:
            for item in self.manifest.metadata:
                if item.path.split("/")[1:-1] in ([], [name]):
                    self._check_bytes(item)
            self._checked.add(name)

    def objects(self) -> Iterator[StoredObject]:
        yield from self.manifest.metadata
        for receipt in self.manifest.units:
            yield from receipt.objects

    def check_sizes(self) -> None:
        """Raise DamagedArtifact where an object is missing or has another size (one listing)."""
        present = self._objects.sizes(self.path)
        for item in self.objects():
            self._compare(item, present.get(f"{self.path}/{item.path}"), item.size, "bytes")

    def _check_bytes(self, item: StoredObject) -> None:
        data = self._objects.read(f"{self.path}/{item.path}")
        sha256 = None if data is None else hashlib.sha256(data).hexdigest()
        self._compare(item, sha256, item.sha256, "sha256")

    def _compare(self, item: StoredObject, stored: object, published: object, field: str) -> None:
        if stored != published:
            what = "is missing" if stored is None else f"has {field} {stored}, published with {published}"
            raise DamagedArtifact(f"{self._objects.url}/{self.path}/{item.path} {what}; {self._way_out}")

    @property
    def _way_out(self) -> str:
        return f"remove the artifact with `sdquant rm {self.name} --force` and make it again"

    # --------------------------------------------------------------------------- verifying

    def verify(self) -> None:
        """Raise DamagedArtifact unless every stored file is as it was published."""
        for error in self.damage():
            raise error

    def damage(self) -> Iterator[SdquantError]:
        """Yield an error for each stored file that is not as it was published."""
        for item in self.objects():
            yield from _error_of(self._check_bytes, item)
        if content_digest(self.objects()) != self.manifest.digest:
            yield DamagedArtifact(
                f"{self._objects.url}/{self.path}/manifest.json: the digest does not match its own list of "
                f"objects; {self._way_out}"
            )
        yield from _error_of(self._check_copy, f"{self.path}/spec.json", self.spec)
        for receipt in self.manifest.units:
            yield from _error_of(self._check_copy, receipt_path(self.path, receipt.unit), receipt)

    def _check_copy(self, path: str, value: Any) -> None:
        """Raise DamagedArtifact unless a file says what the manifest repeats."""
        where = f"{self._objects.url}/{path}"
        data = self._objects.read(path)
        if data is None:
            raise DamagedArtifact(f"{where} is missing; {self._way_out}")
        if read_value(type(value), data, where) != value:
            raise DamagedArtifact(f"{where} differs from the manifest; {self._way_out}")


def _error_of(check: Any, *arguments: Any) -> Iterator[SdquantError]:
    try:
        check(*arguments)
    except SdquantError as error:
        yield error


def content_digest(items: Iterable[StoredObject]) -> str:
    """Return the sha256 over (path, size, sha256) of all objects, sorted by path."""
    lines = sorted(f"{item.path} {item.size} {item.sha256}\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def object_of(path: str, data: bytes) -> StoredObject:
    return StoredObject(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
