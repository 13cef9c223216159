"""The arrays of one artifact as a Zarr v3 group: one shard per unit of work, crc32c in every codec chain."""

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, ObjectStore

from ..errors import DamagedArtifact, first_line
from ..manifests import ArrayInfo
from .objects import Bytes, Objects, plain_errors

GROUP = "data.zarr"


def descriptions(layout: dict[str, ArrayInfo]) -> dict[str, bytes]:
    """Return the zarr.json of the group and of each array, by path."""
    stored: dict[str, Buffer] = {}
    memory = MemoryStore(stored)
    zarr.open_group(memory, mode="w")
    for name, info in layout.items():
        _create_array(memory, name, info)
    return {f"{GROUP}/{path}": buffer.to_bytes() for path, buffer in stored.items()}


def _create_array(store: MemoryStore, name: str | None, info: ArrayInfo) -> zarr.Array:
    tail = info.shape[1:]
    return zarr.create_array(
        store,
        name=name,
        shape=info.shape,
        dtype=info.dtype,
        chunks=(info.chunk_rows, *tail),
        shards=(info.unit_rows, *tail),
        serializer=BytesCodec(),
        compressors=[*([ZstdCodec(level=1)] if info.compressed else []), Crc32cCodec()],
        fill_value=np.nan if np.dtype(info.dtype).kind == "f" else 0,
        dimension_names=info.dims,
    )


def shard_path(name: str, info: ArrayInfo, unit: int) -> str:
    """Return the path of the object that holds a unit's rows of an array."""
    return f"{GROUP}/{name}/c/{unit}" + "/0" * (len(info.shape) - 1)


def encode(info: ArrayInfo, start: int, values: np.ndarray) -> Bytes:
    """Return the bytes of the shard whose rows begin at `start`; `values` are all the rows of its unit."""
    stored: dict[str, Buffer] = {}
    with zarr.config.set({"array.write_empty_chunks": True}):  # a missing chunk would read as zeros
        array = _create_array(MemoryStore(stored), None, info)
    array[start : start + len(values)] = values
    (shard,) = (buffer for path, buffer in stored.items() if path != "zarr.json")
    return shard.as_buffer_like()


def read_rows(objects: Objects, artifact: str, name: str, start: int, stop: int) -> np.ndarray:
    """Return rows start..stop of an array; raises DamagedArtifact where stored bytes fail their checksum."""
    where = f"{objects.url}/{artifact}"
    try:
        with plain_errors(where):
            store = ObjectStore(objects.below(f"{artifact}/{GROUP}"), read_only=True)
            array = zarr.open_array(store, path=name, mode="r")
            return np.asarray(array[start:stop])
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError, FileNotFoundError) as error:
        raise DamagedArtifact(
            f"{where}: array {name!r} cannot be read ({first_line(error)}); run `sdquant verify`, "
            f"then `sdquant rm` and the command that made it"
        ) from None
