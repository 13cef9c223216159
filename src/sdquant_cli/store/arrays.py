"""Arrays of one artifact as a Zarr v3 group: one shard per unit of work, crc32c in every chain."""

from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import ObjectStore, WrapperStore

from ..errors import DamagedArtifact
from ..manifests import ArrayInfo
from .objects import Objects, plain_errors

GROUP = "data.zarr"


class _CreateOnce(WrapperStore[ObjectStore]):
    """A zarr store whose objects are never overwritten with other bytes."""

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set_if_not_exists(key, value)


def _zarr_store(objects: Objects, artifact: str, *, writable: bool) -> ZarrStore:
    inner = ObjectStore(objects.below(f"{artifact}/{GROUP}"), read_only=not writable)
    return _CreateOnce(inner) if writable else inner


def create_group(objects: Objects, artifact: str, arrays: dict[str, ArrayInfo]) -> None:
    """Write the metadata of the group and its arrays; the same call again changes nothing."""
    store = _zarr_store(objects, artifact, writable=True)
    with plain_errors(f"{objects.url}/{artifact}"):
        group = zarr.open_group(store, mode="a")
        for name, info in arrays.items():
            if name not in group:
                tail = info.shape[1:]
                group.create_array(
                    name,
                    shape=info.shape,
                    dtype=info.dtype,
                    chunks=(info.chunk_rows, *tail),
                    shards=(info.unit_rows, *tail),
                    serializer=BytesCodec(),
                    compressors=[*([ZstdCodec(level=1)] if info.compressed else []), Crc32cCodec()],
                    fill_value=np.nan if np.dtype(info.dtype).kind == "f" else 0,
                    dimension_names=info.dims,
                )


def write_rows(objects: Objects, artifact: str, name: str, start: int, values: np.ndarray) -> None:
    """Store one unit's rows; `start` is a multiple of the array's unit_rows."""
    with zarr.config.set({"array.write_empty_chunks": True}):  # a missing chunk reads as zeros: store them
        array: Any = zarr.open_group(_zarr_store(objects, artifact, writable=True), mode="r+")[name]
    if start % array.shards[0] or (start + len(values)) not in (start + array.shards[0], array.shape[0]):
        raise ValueError(f"{name}: rows {start}..{start + len(values)} are not whole units")
    with plain_errors(f"{objects.url}/{artifact}"):
        array[start : start + len(values)] = values


def read_rows(objects: Objects, artifact: str, name: str, start: int, stop: int) -> np.ndarray:
    """Rows start..stop of an array; raises DamagedArtifact where stored bytes fail their checksum."""
    try:
        group = zarr.open_group(_zarr_store(objects, artifact, writable=False), mode="r")
        array: Any = group[name]
        return np.asarray(array[start:stop])
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedArtifact(
            f"{artifact}: array {name!r} cannot be read ({reason}); "
            f"run `sdquant verify`, then `sdquant rm` and make it again"
        ) from None
