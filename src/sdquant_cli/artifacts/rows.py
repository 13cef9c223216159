"""Rows of stored arrays: in memory where they are few, else read by chunk as they are asked for."""

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor

from ..manifests import ArrayInfo
from ..store import Artifact

IN_MEMORY = 1 << 26  # bytes of an array that is read whole, and of the chunks that are kept of a larger one


class StoredRows:
    """An array that is indexed by its first axis as a tensor is; the chunks used last are kept."""

    def __init__(self, artifact: Artifact, name: str, count: int, kept_bytes: int = IN_MEMORY) -> None:
        info = artifact.manifest.arrays[name]
        self._artifact, self._name, self._rows = artifact, name, info.chunk_rows
        self.shape, self._dtype = torch.Size((count, *info.shape[1:])), _dtype_of(info)
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self._kept_bytes = kept_bytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        rows = torch.arange(len(self))[index]
        chunks = rows // self._rows
        result = torch.empty(len(rows), *self.shape[1:], dtype=self._dtype)
        for chunk in chunks.unique().tolist():
            in_chunk = chunks == chunk
            result[in_chunk] = self._chunk(chunk)[rows[in_chunk] - chunk * self._rows]
        return result

    def _chunk(self, number: int) -> Tensor:
        if number not in self._kept:
            start = number * self._rows
            stop = min(start + self._rows, len(self))
            self._kept[number] = torch.from_numpy(self._artifact.read(self._name, start, stop))
        self._kept.move_to_end(number)
        while len(self._kept) > 1 and len(self._kept) * self._kept[number].nbytes > self._kept_bytes:
            self._kept.popitem(last=False)
        return self._kept[number]


def _dtype_of(info: ArrayInfo) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, info.dtype)
    return dtype


def rows_of(artifact: Artifact, name: str, count: int | None = None) -> Tensor:
    """Return the first `count` rows of an array (all by default), as what can be indexed as a tensor is."""
    info = artifact.manifest.arrays[name]
    count = info.shape[0] if count is None else min(count, info.shape[0])
    row = torch.empty(info.shape[1:], dtype=_dtype_of(info)).nbytes
    if count * row <= IN_MEMORY:
        return torch.from_numpy(artifact.read(name, 0, count))
    return cast(Tensor, StoredRows(artifact, name, count))
