"""Arrays as a Zarr v3 group: what is encoded is what plain zarr and `read_rows` read."""

import json

import numpy as np
import pytest

from sdquant_cli.errors import DamagedArtifact
from sdquant_cli.store.arrays import GROUP, descriptions, encode, read_rows, shard_path
from sdquant_cli.store.objects import Objects
from tests.store.making import ARRAYS, DATA

INFO = {name: array.info for name, array in ARRAYS.items()}


@pytest.fixture
def objects(tmp_path) -> Objects:
    """The arrays of an artifact `a`, written without a draft."""
    objects = Objects(str(tmp_path))
    for path, description in descriptions(INFO).items():
        objects.create(f"a/{path}", description)
    for name, info in INFO.items():
        for start in range(0, info.shape[0], info.unit_rows):
            shard = encode(info, start, DATA[name][start : start + info.unit_rows])
            objects.create(f"a/{shard_path(name, info, start // info.unit_rows)}", shard)
    return objects


def test_rows_across_shards_are_read(objects):
    assert np.array_equal(read_rows(objects, "a", "x", 3, 9), DATA["x"][3:9])
    assert np.array_equal(read_rows(objects, "a", "row", 0, 10), DATA["row"])


def test_descriptions_are_those_of_zarr_v3():
    described = {path: json.loads(data) for path, data in descriptions(INFO).items()}
    assert set(described) == {f"{GROUP}/zarr.json", f"{GROUP}/x/zarr.json", f"{GROUP}/row/zarr.json"}
    x = described[f"{GROUP}/x/zarr.json"]
    assert (x["zarr_format"], x["shape"], x["data_type"]) == (3, [10, 2, 3], "float16")
    (sharding,) = x["codecs"]
    assert sharding["configuration"]["chunk_shape"] == [2, 2, 3]
    assert sharding["configuration"]["codecs"][-1]["name"] == "crc32c"


def test_the_same_rows_are_the_same_bytes():
    assert bytes(encode(INFO["x"], 4, DATA["x"][4:8])) == bytes(encode(INFO["x"], 4, DATA["x"][4:8].copy()))
    assert bytes(encode(INFO["x"], 4, DATA["x"][4:8])) != bytes(encode(INFO["x"], 4, DATA["x"][:4]))


def test_a_flipped_byte_fails_its_checksum(objects, tmp_path):
    path = tmp_path / "a" / shard_path("x", INFO["x"], 1)
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    assert np.array_equal(read_rows(objects, "a", "x", 0, 4), DATA["x"][:4])
    with pytest.raises(DamagedArtifact, match=r"/a: array 'x' cannot be read \(.+\); run `sdquant verify`"):
        read_rows(objects, "a", "x", 4, 8)


def test_an_array_that_is_not_there_is_named(objects):
    with pytest.raises(DamagedArtifact, match="array 'y' cannot be read"):
        read_rows(objects, "a", "y", 0, 1)
