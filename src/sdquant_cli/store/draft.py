"""An unpublished artifact, written unit by unit.

A unit is complete when its receipt exists; the artifact is complete when its manifest exists. Every object
is created once and never overwritten, and a receipt has the digests of the bytes that are stored, read
back. So a kill at any moment loses at most the current unit, two writers of one artifact cannot publish
bytes that its receipts do not name, and a reader never sees half an artifact.

Processes that make the same artifact share its units (leases.py), and one of them publishes. An artifact of
one unit is computed by one process, and others wait for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ..errors import DamagedArtifact, EnvironmentProblem, SdquantError
from ..events import Events, Task
from ..manifests import MANIFESTS, Frozen, Manifest, Provenance, Receipt, Ref, Spec, StoredObject
from ..meter import Meter
from ..ranks import current
from ..sealed import seal
from .artifact import ArraySpec, Artifact, content_digest, folder, key_of, object_of, receipt_path
from .documents import CONDEMNED, read_manifest, read_value, write_manifest
from .leases import Leases
from .objects import Objects
from .scratch import Member, claim, clear, discard, scratch_of

if TYPE_CHECKING:
    import numpy as np

Facts = Frozen | Callable[[], Frozen]  # a function, where all units must be stored before
_RECEIPT = re.compile(r".*/units/(\d{6})\.json")


class Draft:
    """An artifact being written: write each missing unit, then publish.

    Raises Busy while another process of this machine has the same draft of one unit open. Units of an
    earlier run are checked, by the first rank: one whose bytes do not match its receipt counts as missing.
    """

    def __init__(
        self,
        objects: Objects,
        spec: Spec,
        inputs: dict[str, Ref],
        arrays: dict[str, ArraySpec],
        units: int,
        events: Events,
    ) -> None:
        from . import arrays as zarr_arrays

        self._objects, self._spec, self._inputs = objects, spec, inputs
        self._key = key_of(spec, inputs, arrays)
        self._events = events
        self._zarr = zarr_arrays
        self._arrays = arrays
        self._layout = {name: array.info for name, array in arrays.items()}
        self.units = units
        self.path = folder(spec.kind, self._key)
        self.name = f"{objects.url}/{self.path}"
        self.scratch = scratch_of(objects, spec.kind, self._key)  # for checkpoints; removed on publishing
        member = Member(self.scratch)
        self._lock = member.join() if units > 1 else claim(self.scratch, self.name)
        self._leases = Leases(objects, self.path, member, events) if units > 1 else None
        if units == 1:
            for leftover in self.scratch.glob("*.partial"):  # of a killed run
                leftover.unlink()
        cost = self.scratch / "cost.json"
        self.meter = Meter(cost)
        if cost.exists() and not self.meter.resumed:
            events.warn(f"{cost} is damaged; time and memory of earlier runs are not counted")
        self._checked: dict[str, Receipt] = {}
        self._ensure("spec.json", spec.model_dump_json(indent=1).encode())
        for path, description in zarr_arrays.descriptions(self._layout).items():
            self._ensure(path, description)

    def _ensure(self, path: str, data: bytes) -> None:
        """Store a description unless it is there already; replace a damaged one."""
        full = f"{self.path}/{path}"
        if self._objects.create(full, data):
            return
        stored = self._objects.read(full) or b""
        if stored != data and not _same_json(stored, data):
            self._events.warn(f"{self.name}/{path} was damaged and has been rewritten")
            self._objects.delete([full])
            self._objects.create(full, data)

    # ---------------------------------------------------------------------------- receipts

    def _stored_units(self) -> dict[int, str]:
        """Return the paths of the receipts there are, by unit; costs one listing."""
        paths = {}
        for path in sorted(self._objects.sizes(f"{self.path}/units")):
            name = _RECEIPT.fullmatch(path)
            if name and int(name[1]) < self.units:
                paths[int(name[1])] = path
        return paths

    def receipts(self, *, hashed: bool = False) -> dict[int, Receipt]:
        """Return the receipts of stored units; a damaged one is removed, so that its unit is missing.

        `hashed`: so is one that does not match the bytes stored; those of this process are known to.
        """
        receipts = {}
        for unit, path in self._stored_units().items():
            receipt = self._checked.get(path) or self._check(path, unit, hashed=hashed)
            if receipt is not None:
                self._checked[path] = receipt
                receipts[unit] = receipt
        return receipts

    def _check(self, path: str, unit: int, *, hashed: bool) -> Receipt | None:
        """Return a receipt if it can be read and, if `hashed`, its objects match it.

        Otherwise remove it and its damaged objects.
        """
        expected = set(self._shards(unit).values())
        try:
            receipt = read_value(Receipt, self._objects.read(path) or b"", f"{self._objects.url}/{path}")
            if receipt.unit == unit and {item.path for item in receipt.objects} == expected:
                damaged = []
                for item in receipt.objects:
                    if hashed and self._stored(item.path) != item:
                        damaged.append(item.path)
                if not damaged:
                    return receipt
                self._objects.delete([f"{self.path}/{path}" for path in damaged])
        except DamagedArtifact:
            pass  # the receipt itself: its objects are checked when the unit is written again
        self._discard(path, unit)
        return None

    def _discard(self, path: str, unit: int) -> None:
        self._events.warn(f"{self.name}: stored bytes of unit {unit} are damaged; it will be computed again")
        self._checked.pop(path, None)
        self._objects.delete([path])

    def missing(self) -> list[int]:
        """Return the units that are still to be written."""
        stored = self.receipts(hashed=True) if current().is_first else self._stored_units()
        return sorted(set(range(self.units)) - set(stored))

    def turns(self, sizes: Mapping[int, int], task: Task) -> Iterator[int]:
        """Yield the units, of those with sizes, that this process is to write, until all are stored.

        `task` advances by the size of each unit that another process has stored. Units that this process
        does not get to, since it is interrupted or fails, are taken by others, or by the same command.
        """
        if self._leases is None:
            yield from sizes
        else:
            yield from self._leases.turns(
                list(sizes), self._stored_units, lambda unit: task.advance(sizes[unit])
            )

    def missing_rows(self, array: str) -> dict[int, range]:
        """Return the rows of `array` in each unit that is still to be written."""
        return {unit: range(*self.rows(unit, array)) for unit in self.missing()}

    # ----------------------------------------------------------------------------- writing

    def rows(self, unit: int, array: str) -> tuple[int, int]:
        """Return the first and last-plus-one row of `array` in a unit."""
        info = self._layout[array]
        return unit * info.unit_rows, min((unit + 1) * info.unit_rows, info.shape[0])

    def peek(self, array: str) -> np.ndarray:
        """Return an array of the draft; it is complete once no unit is missing."""
        return self._zarr.read_rows(self._objects, self.path, array, 0, self._layout[array].shape[0])

    def write(self, unit: int, values: dict[str, np.ndarray], counts: dict[str, int] | None = None) -> None:
        """Store a unit's rows of every array, read them back, and write the receipt.

        Raises SdquantError for NaN or infinity in an array that refuses them.
        """
        shards = self._shards(unit)
        arrays = {name: self._fitting(unit, name, rows) for name, rows in values.items() if name in shards}
        stored = [self._store_rows(unit, name, rows) for name, rows in arrays.items()]
        receipt = Receipt(unit=unit, objects=tuple(stored), counts=counts or {})
        path = receipt_path(self.path, unit)
        if self._objects.create(path, seal(receipt.model_dump(mode="json"))):
            self._checked[path] = receipt

    def _shards(self, unit: int) -> dict[str, str]:
        """Return the shard's path of each array that has rows in a unit."""
        paths = {}
        for name, info in self._layout.items():
            start, stop = self.rows(unit, name)
            if stop > start:
                paths[name] = self._zarr.shard_path(name, info, unit)
        return paths

    def _fitting(self, unit: int, name: str, rows: np.ndarray) -> np.ndarray:
        """Return a unit's rows in their stored dtype; raises for a wrong shape or refused numbers."""
        import numpy as np

        info = self._layout[name]
        start, stop = self.rows(unit, name)
        with np.errstate(over="ignore"):  # refused below
            rows = np.ascontiguousarray(rows, dtype=info.dtype)
        expected = (stop - start, *info.shape[1:])
        if rows.shape != expected:
            raise ValueError(f"{name}: unit {unit} takes shape {expected}, got {rows.shape}")
        if self._arrays[name].finite and rows.dtype.kind == "f" and not np.isfinite(rows).all():
            raise SdquantError(
                f"{self._spec.kind}: {np.count_nonzero(~np.isfinite(rows))} of {rows.size} numbers of {name} "
                f"are not finite, and are not stored; the model or its settings overflow, try --dtype fp32"
            )
        return rows

    def _store_rows(self, unit: int, name: str, rows: np.ndarray) -> StoredObject:
        """Create a unit's shard of one array and return what is stored.

        A shard without a receipt is left by a killed run or by another writer: it is kept if it can be
        read, and replaced if not.
        """
        info = self._layout[name]
        start, stop = self.rows(unit, name)
        path = self._zarr.shard_path(name, info, unit)
        data = self._zarr.encode(info, start, rows)
        computed = object_of(path, data)
        if not self._objects.create(f"{self.path}/{path}", data):
            if self._stored(path) == computed:
                return computed
            if self._is_readable(name, start, stop):
                self._events.warn(
                    f"{self.name}/{path} is stored already, with other bytes than computed here, and kept: "
                    f"another machine or number of threads rounds differently"
                )
                return self._stored_now(path)
            self._objects.delete([f"{self.path}/{path}"])
            self._objects.create(f"{self.path}/{path}", data)
        return self._stored_now(path)

    def _is_readable(self, name: str, start: int, stop: int) -> bool:
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

    def publish(self, facts: Facts, provenance: Provenance) -> Artifact:
        """Write the manifest, which makes the artifact exist, and return the artifact.

        Of processes that share the units one publishes: it computes the facts that are given as a function.
        If another writer published first, the artifact is the one that it published.
        """
        path = f"{self.path}/manifest.json"
        if self._leases is None:
            self._publish(path, facts, provenance)
        else:
            publication = self.units  # counts as a further unit
            published = partial(self._publication, path, publication)
            for _ in self._leases.turns([publication], published, lambda _: None):
                if not published():
                    self._publish(path, facts, provenance)
        stored = self._read_published(path)
        self._end()
        return Artifact(self._objects, stored)

    def _read_published(self, path: str) -> Manifest:
        """Return the manifest; raises EnvironmentProblem if `sdquant gc` has removed the draft meanwhile."""
        data = self._objects.read(path)
        if data is None or data == CONDEMNED:
            raise EnvironmentProblem(
                f"{self.name}: `sdquant gc` has removed it, since nothing was written for so long; run the "
                f"same command again, after `sdquant rm {self._spec.kind}/{self._key}` if this comes again"
            )
        return read_manifest(self._spec.kind, self._key, data, f"{self._objects.url}/{path}")

    def _publication(self, path: str, unit: int) -> list[int]:
        """Return the unit if the manifest is there."""
        return [] if self._objects.read(path) is None else [unit]

    def _end(self) -> None:
        """Remove what served the work on the draft."""
        if self._leases is not None:
            self._leases.clear()
            self._lock.release(force=True)
            discard(self.scratch)
        else:
            clear(self.scratch, self.name)

    def _publish(self, path: str, facts: Facts, provenance: Provenance) -> None:
        """Write the manifest, unless another writer has."""
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
                "facts": facts() if callable(facts) else facts,
            }
        )
        if self._objects.create(path, write_manifest(manifest)):
            self._check_still_there(path, manifest)

    def _check_still_there(self, path: str, manifest: Manifest) -> None:
        """Remove the manifest again if `sdquant gc` has removed units since they were found present."""
        present = self._objects.sizes(f"{self.path}/units")
        if len(present) < len(manifest.units):
            self._objects.delete([path])

    def _check_present(self, receipts: dict[int, Receipt]) -> None:
        """Raise DamagedArtifact unless every unit is stored, all its objects with their sizes."""
        present = self._objects.sizes(self.path)
        self._objects.delete([path for path in present if path.endswith(".partial")])  # left by killed runs
        for unit in range(self.units):
            objects = receipts[unit].objects if unit in receipts else ()
            whole = all(present.get(f"{self.path}/{item.path}") == item.size for item in objects)
            if unit in receipts and not whole:
                self._discard(receipt_path(self.path, unit), unit)
            if unit not in receipts or not whole:
                raise DamagedArtifact(
                    f"{self.name}: unit {unit} was changed while the artifact was written; run the same "
                    f"command again to compute what is missing"
                )


def lengths(rows: Mapping[int, range]) -> dict[int, int]:
    """Return the number of rows of each unit."""
    return {unit: len(part) for unit, part in rows.items()}


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False
