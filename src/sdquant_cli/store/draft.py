"""An artifact while it is being made.

Work is split in units. A unit is complete when its receipt exists; the artifact is complete when its
manifest exists. Every object is created once and never overwritten, and a receipt tells the bytes that
are stored, read back: a kill at any moment loses at most the unit in hand, two writers of one artifact
cannot publish other bytes than its receipts name, and a reader never sees half an artifact.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ..errors import DamagedArtifact, EnvironmentProblem, SdquantError
from ..events import Events
from ..manifests import MANIFESTS, Frozen, Provenance, Receipt, Ref, Spec, StoredObject
from ..meter import Meter
from ..sealed import seal
from .artifact import ArraySpec, Artifact, content_digest, folder, object_of, receipt_path
from .documents import read_manifest, read_value, write_manifest
from .objects import Objects
from .scratch import claim, clear, scratch_of

if TYPE_CHECKING:
    import numpy as np

_RECEIPT = re.compile(r".*/units/(\d{6})\.json")


class Draft:
    """An artifact being made. Write each missing unit, then publish.

    Raises EnvironmentProblem while another process of this machine has the same draft in hand. What an
    earlier run left is checked: a unit whose bytes are not those of its receipt is missing again.
    """

    def __init__(
        self,
        objects: Objects,
        spec: Spec,
        key: str,
        inputs: dict[str, Ref],
        arrays: dict[str, ArraySpec],
        units: int,
        events: Events,
    ) -> None:
        from . import arrays as zarr_arrays

        self._objects, self._spec, self._key, self._inputs = objects, spec, key, inputs
        self._events = events
        self._zarr = zarr_arrays
        self._arrays = arrays
        self._layout = {name: array.info for name, array in arrays.items()}
        self.units = units
        self.path = folder(spec.kind, key)
        self.name = f"{objects.url}/{self.path}"
        self.scratch = scratch_of(objects, spec.kind, key)  # checkpoints; gone once it is published
        self._lock = claim(self.scratch, self.name)
        cost = self.scratch / "cost.json"
        self.meter = Meter(cost)
        if cost.exists() and not self.meter.resumed:
            events.warn(f"{cost} is damaged; what it took so far is not counted")
        self._checked: dict[str, Receipt] = {}
        self._settle("spec.json", spec.model_dump_json(indent=1).encode())
        for path, description in zarr_arrays.descriptions(self._layout).items():
            self._settle(path, description)

    def _settle(self, path: str, data: bytes) -> None:
        """See to it that a description is stored; a damaged one is replaced."""
        full = f"{self.path}/{path}"
        if self._objects.create(full, data):
            return
        stored = self._objects.read(full) or b""
        if stored != data and not _same_json(stored, data):
            self._events.warn(f"{self.name}/{path} was damaged and is written again")
            self._objects.delete([full])
            self._objects.create(full, data)

    # ---------------------------------------------------------------------------- receipts

    def receipts(self) -> dict[int, Receipt]:
        """Return the receipts of stored units.

        Bytes that this process has not written are hashed once; where they are not those of the receipt,
        that is removed, and the unit is missing.
        """
        receipts = {}
        for path in sorted(self._objects.sizes(f"{self.path}/units")):
            name = _RECEIPT.fullmatch(path)
            if name and int(name[1]) < self.units:
                receipt = self._checked.get(path) or self._check(path, int(name[1]))
                if receipt is not None:
                    self._checked[path] = receipt
                    receipts[receipt.unit] = receipt
        return receipts

    def _check(self, path: str, unit: int) -> Receipt | None:
        """Return a receipt whose objects are stored as it says; remove any other."""
        expected = set(self._shards(unit).values())
        try:
            receipt = read_value(Receipt, self._objects.read(path) or b"", f"{self._objects.url}/{path}")
            if receipt.unit == unit and {item.path for item in receipt.objects} == expected:
                harmed = [item.path for item in receipt.objects if self._stored(item.path) != item]
                if not harmed:
                    return receipt
                self._objects.delete([f"{self.path}/{path}" for path in harmed])
        except DamagedArtifact:
            pass  # the receipt itself: its objects are looked at when the unit is written
        self._drop(path, unit)
        return None

    def _drop(self, path: str, unit: int) -> None:
        self._events.warn(f"{self.name}: stored bytes of unit {unit} are damaged; it is made again")
        self._checked.pop(path, None)
        self._objects.delete([path])

    def missing(self) -> list[int]:
        done = self.receipts()
        return [unit for unit in range(self.units) if unit not in done]

    # ----------------------------------------------------------------------------- writing

    def rows(self, unit: int, array: str) -> tuple[int, int]:
        """Return the first and last-plus-one row of `array` in a unit."""
        info = self._layout[array]
        return unit * info.unit_rows, min((unit + 1) * info.unit_rows, info.shape[0])

    def peek(self, array: str) -> np.ndarray:
        """Return an array of the draft; complete once no unit is missing."""
        return self._zarr.read_rows(self._objects, self.path, array, 0, self._layout[array].shape[0])

    def write(self, unit: int, values: dict[str, np.ndarray], counts: dict[str, int] | None = None) -> None:
        """Store a unit's rows of every array, read them back, and leave the receipt.

        Raises SdquantError for numbers that are not finite, where the array takes none.
        """
        shards = self._shards(unit)
        arrays = {name: self._fitting(unit, name, rows) for name, rows in values.items() if name in shards}
        stored = [self._store_rows(unit, name, rows) for name, rows in arrays.items()]
        receipt = Receipt(unit=unit, objects=tuple(stored), counts=counts or {})
        path = receipt_path(self.path, unit)
        if self._objects.create(path, seal(receipt.model_dump(mode="json"))):
            self._checked[path] = receipt

    def _shards(self, unit: int) -> dict[str, str]:
        """Return the path of the object of each array that has rows in a unit."""
        paths = {}
        for name, info in self._layout.items():
            start, stop = self.rows(unit, name)
            if stop > start:
                paths[name] = self._zarr.shard_path(name, info, unit)
        return paths

    def _fitting(self, unit: int, name: str, rows: np.ndarray) -> np.ndarray:
        """Return a unit's rows as they are stored; raises for another shape, or numbers that are refused."""
        import numpy as np

        info = self._layout[name]
        start, stop = self.rows(unit, name)
        with np.errstate(over="ignore"):  # told below
            rows = np.ascontiguousarray(rows, dtype=info.dtype)
        expected = (stop - start, *info.shape[1:])
        if rows.shape != expected:
            raise ValueError(f"{name}: unit {unit} takes {expected}, got {rows.shape}")
        if self._arrays[name].finite and rows.dtype.kind == "f" and not np.isfinite(rows).all():
            raise SdquantError(
                f"{self._spec.kind}: {np.count_nonzero(~np.isfinite(rows))} of {rows.size} numbers of {name} "
                f"are not finite, and are not stored; the model or its settings overflow, try --dtype fp32"
            )
        return rows

    def _store_rows(self, unit: int, name: str, rows: np.ndarray) -> StoredObject:
        """Create a unit's shard of one array and return what is stored.

        What is there without a receipt is the remains of a killed run, or another writer's: it is kept if
        it can be read, and made again if not.
        """
        info = self._layout[name]
        start, stop = self.rows(unit, name)
        path = self._zarr.shard_path(name, info, unit)
        data = self._zarr.encode(info, start, rows)
        computed = object_of(path, data)
        if not self._objects.create(f"{self.path}/{path}", data):
            if self._stored(path) == computed:
                return computed
            if self._can_be_read(name, start, stop):
                self._events.warn(
                    f"{self.name}/{path} is stored already, with other bytes than computed here; it is kept: "
                    f"another machine or number of threads rounds in another way"
                )
                return self._stored_now(path)
            self._objects.delete([f"{self.path}/{path}"])
            self._objects.create(f"{self.path}/{path}", data)
        return self._stored_now(path)

    def _can_be_read(self, name: str, start: int, stop: int) -> bool:
        try:
            self._zarr.read_rows(self._objects, self.path, name, start, stop)
        except DamagedArtifact:
            return False
        return True

    def _stored(self, path: str) -> StoredObject | None:
        data = self._objects.read(f"{self.path}/{path}")
        return None if data is None else object_of(path, data)

    def _stored_now(self, path: str) -> StoredObject:
        stored = self._stored(path)
        if stored is None:
            raise EnvironmentProblem(
                f"{self.name}/{path} was removed while it was written; run the same command again"
            )
        return stored

    # -------------------------------------------------------------------------- publishing

    def publish(self, facts: Frozen, provenance: Provenance) -> Artifact:
        """Create the manifest: from here on the artifact exists.

        Where another writer was first, the artifact is the one that it published.
        """
        receipts = self.receipts()
        self._check_present(receipts)
        metadata = [self._stored_now(path) for path in self._zarr.descriptions(self._layout)]
        units = [receipts[unit] for unit in range(self.units)]
        cost = {"seconds": self.meter.seconds, "peak_memory": self.meter.peak_memory}
        manifest = MANIFESTS[self._spec.kind].model_validate(
            {
                "kind": self._spec.kind,
                "key": self._key,
                "digest": content_digest([*metadata, *(item for unit in units for item in unit.objects)]),
                "inputs": self._inputs,
                "arrays": self._layout,
                "metadata": metadata,
                "units": units,
                "provenance": provenance.model_copy(update=cost),
                "spec": self._spec,
                "facts": facts,
            }
        )
        path = f"{self.path}/manifest.json"
        data = write_manifest(manifest)
        if not self._objects.create(path, data):
            data = self._objects.read(path) or b""
        stored = read_manifest(self._spec.kind, self._key, data, f"{self._objects.url}/{path}")
        clear(self.scratch, self.name)
        return Artifact(self._objects, stored)

    def _check_present(self, receipts: dict[int, Receipt]) -> None:
        """Raise DamagedArtifact unless every unit is stored, all its objects with their sizes."""
        present = self._objects.sizes(self.path)
        self._objects.delete([path for path in present if path.endswith(".partial")])  # of killed runs
        for unit in range(self.units):
            objects = receipts[unit].objects if unit in receipts else ()
            whole = all(present.get(f"{self.path}/{item.path}") == item.size for item in objects)
            if unit in receipts and not whole:
                self._drop(receipt_path(self.path, unit), unit)
            if unit not in receipts or not whole:
                raise DamagedArtifact(
                    f"{self.name}: unit {unit} was changed while the artifact was made; run the same command "
                    f"again, which makes what is missing"
                )


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False
