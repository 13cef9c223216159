"""Rows of stored arrays: those of the whole array, in bounded memory."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sdquant_cli.artifacts import rows
from sdquant_cli.artifacts.rows import StoredRows, rows_of
from sdquant_cli.store import Store
from tests.store.making import DATA, make


@pytest.fixture
def artifact(tmp_path):
    return make(Store(str(tmp_path / "store")))


@pytest.mark.parametrize("count", [10, 7])
@pytest.mark.parametrize(
    "index", [torch.tensor([6, 0, 6, 3]), slice(1, 5), slice(None), torch.tensor([], dtype=torch.long)]
)
def test_they_are_those_of_the_whole_array(artifact, count, index):
    stored = StoredRows(artifact, "x", count)
    whole = torch.from_numpy(DATA["x"])[:count]
    assert len(stored) == count
    assert stored.shape == whole.shape
    assert stored[index].equal(whole[index]) or not len(whole[index])


def test_the_chunks_used_last_are_kept_and_no_more(artifact, monkeypatch):
    read = []
    original = artifact.read
    monkeypatch.setattr(artifact, "read", lambda *words: read.append(words[1]) or original(*words))
    stored = StoredRows(artifact, "x", 10, kept_bytes=2 * 2 * 6 * 2)  # two chunks of two rows
    for row in (0, 1, 2, 0, 4, 0, 2):
        stored[torch.tensor([row])]
    assert read == [0, 2, 4, 2]


def test_a_large_array_is_not_read_whole(artifact, monkeypatch):
    assert isinstance(rows_of(artifact, "x"), Tensor)
    assert np.array_equal(rows_of(artifact, "row", 3), [0, 1, 2])
    monkeypatch.setattr(rows, "IN_MEMORY", 20)
    assert isinstance(rows_of(artifact, "x"), StoredRows)
    assert len(rows_of(artifact, "x", 99)) == 10
