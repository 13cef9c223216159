"""One artifact: a Draft while it is being made, an Artifact once its manifest is published.

Work is split in units. A unit is complete when its receipt exists; the artifact is complete when
its manifest exists. Both are created once and never changed, so a kill at any moment loses at most
the unit in hand, and a reader never sees half an artifact.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from pydantic import ValidationError

from ..errors import DamagedArtifact, EnvironmentProblem, NewerFormat, SdquantError
from ..manifests import (
    FORMAT,
    MANIFESTS,
    ArrayInfo,
    Frozen,
    Manifest,
    Provenance,
    Receipt,
    Ref,
    Spec,
    StoredObject,
    field_that_is_not_finite,
)
from ..meter import Meter
from ..types import Kind
from . import arrays as zarr_arrays
from .objects import Objects, plain_errors


def folder(kind: Kind, key: str) -> str:
    return f"artifacts/{kind}/{key}"


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


def parse_manifest(kind: Kind, data: bytes, where: str) -> Manifest:
    """Read a manifest; raises NewerFormat or DamagedArtifact, naming the place and the field."""
    try:
        found = json.loads(data)
        newer = int(found["format"]) > FORMAT
    except (ValueError, TypeError, KeyError):
        raise DamagedArtifact(f"{where}: not a manifest of sdquant") from None
    if newer:
        raise NewerFormat(
            f"{where}: format {found['format']}, this sdquant reads up to {FORMAT}; upgrade with "
            f"`pip install -U sdquant`"
        )
    try:
        return MANIFESTS[kind].model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DamagedArtifact(f"{where}: field {field}: {first['msg']}") from None


class Artifact:
    """A published artifact: its manifest, and its arrays on request."""

    def __init__(self, objects: Objects, manifest: Manifest) -> None:
        self._objects = objects
        self.manifest = manifest
        self.path = folder(manifest.kind, manifest.key)

    @property
    def ref(self) -> Ref:
        return self.manifest.ref

    @property
    def spec(self) -> Any:
        return self.manifest.spec  # type: ignore[attr-defined]

    @property
    def facts(self) -> Any:
        return self.manifest.facts  # type: ignore[attr-defined]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start..stop of an array, all by default."""
        info = self.manifest.arrays[name]
        return zarr_arrays.read_rows(
            self._objects, self.path, name, start, info.shape[0] if stop is None else stop
        )

    def objects(self) -> Iterator[StoredObject]:
        yield from self.manifest.metadata
        for receipt in self.manifest.units:
            yield from receipt.objects

    def check_sizes(self) -> None:
        """Raise DamagedArtifact where an object is missing or has another size (one listing)."""
        present = self._objects.sizes(self.path)
        for item in self.objects():
            self._complain(item, present.get(f"{self.path}/{item.path}"), item.size, "bytes")

    def verify(self) -> None:
        """Raise DamagedArtifact where an object's sha256 is not the one that was published."""
        for item in self.objects():
            data = self._objects.read(f"{self.path}/{item.path}")
            found = None if data is None else hashlib.sha256(data).hexdigest()
            self._complain(item, found, item.sha256, "sha256")
        if content_digest(list(self.objects())) != self.manifest.digest:
            raise DamagedArtifact(
                f"{self.path}/manifest.json: the digest does not match its own list of objects"
            )

    def _complain(self, item: StoredObject, found: object, expected: object, field: str) -> None:
        if found != expected:
            what = "is missing" if found is None else f"has {field} {found}, published with {expected}"
            raise DamagedArtifact(
                f"{self._objects.url}/{self.path}/{item.path} {what}; remove the artifact with "
                f"`sdquant rm {self.manifest.kind}/{self.manifest.key} --force` and make it again"
            )


def content_digest(items: list[StoredObject]) -> str:
    """sha256 over (path, size, sha256) of all objects, sorted by path."""
    lines = sorted(f"{item.path} {item.size} {item.sha256}\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Draft:
    """An artifact being made, by one process at a time. Write each missing unit, then publish.

    Raises EnvironmentProblem while another process of this machine has the same draft in hand.
    """

    def __init__(
        self,
        objects: Objects,
        spec: Spec,
        key: str,
        inputs: dict[str, Ref],
        layout: dict[str, ArrayInfo],
        units: int,
    ) -> None:
        self._objects, self._spec, self._key, self._inputs = objects, spec, key, inputs
        self._layout = layout
        self.units = units
        self.path = folder(spec.kind, key)
        root = objects.local or Path(".sdquant-scratch").absolute()
        self.scratch = root / "scratch" / spec.kind / key  # checkpoints; gone once it is published
        self._lock = self._claimed()
        self.meter = Meter(self.scratch / "cost.json")
        objects.create(f"{self.path}/spec.json", spec.model_dump_json(indent=1).encode())
        zarr_arrays.create_group(objects, self.path, layout)

    def _claimed(self) -> FileLock:
        """Held until the draft is published or its process ends."""
        with plain_errors(str(self.scratch)):
            self.scratch.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.scratch / "lock", is_singleton=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise EnvironmentProblem(
                    f"{self._objects.url}/{self.path}: another process is making it; wait for that, then run "
                    f"the same command again"
                ) from None
        return lock

    def _receipt_path(self, unit: int) -> str:
        return f"{self.path}/units/{unit:06d}.json"

    def receipts(self) -> dict[int, Receipt]:
        """Receipts of the units that are stored already."""
        paths = [p for p in self._objects.sizes(f"{self.path}/units") if p.endswith(".json")]
        found = [Receipt.model_validate_json(self._objects.read(p) or b"") for p in paths]
        return {receipt.unit: receipt for receipt in found}

    def missing(self) -> list[int]:
        done = self.receipts()
        return [unit for unit in range(self.units) if unit not in done]

    def rows(self, unit: int, array: str) -> tuple[int, int]:
        """First and last-plus-one row of `array` in a unit."""
        info = self._layout[array]
        return unit * info.unit_rows, min((unit + 1) * info.unit_rows, info.shape[0])

    def peek(self, array: str) -> np.ndarray:
        """An array of the draft; complete once no unit is missing."""
        return zarr_arrays.read_rows(self._objects, self.path, array, 0, self._layout[array].shape[0])

    def write(
        self,
        unit: int,
        values: dict[str, np.ndarray],
        counts: dict[str, int] | None = None,
        *,
        finite: bool = True,
    ) -> None:
        """Store a unit's rows of every array, read them back, and leave the receipt.

        Raises SdquantError for NaN or infinity, unless `finite` is False.
        """
        if finite:
            self._check_finite(unit, values)
        self._clear_leftovers(unit, list(values))
        for name, rows in values.items():
            start, stop = self.rows(unit, name)
            if stop > start:
                info = self._layout[name]
                rows = np.ascontiguousarray(rows, dtype=info.dtype)
                if rows.shape != (stop - start, *info.shape[1:]):
                    raise ValueError(
                        f"{name}: unit {unit} takes {(stop - start, *info.shape[1:])}, got {rows.shape}"
                    )
                zarr_arrays.write_rows(self._objects, self.path, name, start, rows)
        stored = [self._stored(path) for name in values for path in self._shards(unit, name)]
        receipt = Receipt(unit=unit, objects=tuple(stored), counts=counts or {})
        self._objects.create(self._receipt_path(unit), receipt.model_dump_json().encode())

    def _check_finite(self, unit: int, values: dict[str, np.ndarray]) -> None:
        for name, rows in values.items():
            info, first = self._layout[name], self.rows(unit, name)[0]
            if np.dtype(info.dtype).kind != "f" or not rows.size:
                continue
            with np.errstate(over="ignore"):  # fp16 turns large numbers into infinity
                stored = np.asarray(rows).astype(info.dtype)
            broken = ~np.isfinite(stored).reshape(len(stored), -1).all(axis=1)
            if broken.any():
                raise SdquantError(
                    f"{self.path}: {name} of {info.dims[0]} {first + int(broken.argmax())} is not finite; "
                    f"nothing of its unit was stored"
                )

    def _shards(self, unit: int, array: str) -> list[str]:
        info = self._layout[array]
        start, stop = self.rows(unit, array)
        tail = "/0" * (len(info.shape) - 1)
        return [f"{zarr_arrays.GROUP}/{array}/c/{unit}{tail}"] if stop > start else []

    def _clear_leftovers(self, unit: int, names: list[str]) -> None:
        """Objects without a receipt are the remains of a killed run."""
        present = self._objects.sizes(f"{self.path}/{zarr_arrays.GROUP}")
        wanted = (f"{self.path}/{path}" for name in names for path in self._shards(unit, name))
        leftovers = [path for path in wanted if path in present]
        if leftovers:
            self._objects.delete(leftovers)

    def _stored(self, path: str) -> StoredObject:
        data = self._objects.read(f"{self.path}/{path}")
        if data is None:
            raise DamagedArtifact(f"{self._objects.url}/{self.path}/{path} vanished while it was written")
        return StoredObject(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def publish(self, facts: Frozen, provenance: Provenance) -> Artifact:
        """Create the manifest: from here on the artifact exists. Raises SdquantError for facts with NaN."""
        if (field := field_that_is_not_finite(facts.model_dump())) is not None:
            raise SdquantError(f"{self.path}: {field} is not finite; the artifact was not published")
        receipts = self.receipts()
        names = ["zarr.json", *(f"{name}/zarr.json" for name in self._layout)]
        metadata = [self._stored(f"{zarr_arrays.GROUP}/{name}") for name in names]
        units = [receipts[unit] for unit in range(self.units)]
        cost = {"seconds": self.meter.seconds, "peak_memory": self.meter.peak_memory}
        items = [*metadata, *(item for receipt in units for item in receipt.objects)]
        manifest = MANIFESTS[self._spec.kind].model_validate(
            {
                "kind": self._spec.kind,
                "key": self._key,
                "digest": content_digest(items),
                "inputs": self._inputs,
                "arrays": self._layout,
                "metadata": metadata,
                "units": units,
                "provenance": provenance.model_copy(update=cost),
                "spec": self._spec,
                "facts": facts,
            }
        )
        self._objects.create(f"{self.path}/manifest.json", manifest.model_dump_json(indent=1).encode())
        artifact = Artifact(self._objects, manifest)
        artifact.check_sizes()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._lock.release(force=True)
        return artifact
