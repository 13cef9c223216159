"""Garbage: what killed and forgotten runs leave in a store. Nothing that is published is garbage.

A draft may have a writer that was only slow. So removing one begins as publishing does, by creating its
manifest, which one of both can; a writer that comes later finds units missing (draft.py).
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..types import Kind
from .artifact import folder
from .documents import CONDEMNED
from .objects import Found
from .scratch import Busy, claims, scratch_root
from .store import Store


@dataclass(frozen=True)
class Garbage:
    """Files that no command needs."""

    what: str
    path: str  # below the store or, of a bucket's scratch, below the current folder
    files: int
    bytes: int
    newest: datetime  # when the last of them was written

    @classmethod
    def of(cls, what: str, path: str, found: Sequence[Found]) -> "Garbage":
        """Return files as garbage."""
        newest = max(item.modified for item in found)
        return cls(what, path, len(found), sum(item.size for item in found), newest)

    @property
    def days(self) -> float:
        """Days since the last file was written."""
        return (datetime.now(UTC) - self.newest) / timedelta(days=1)


def garbage(store: Store, older_than: timedelta) -> Iterator[Garbage]:
    """Yield unfinished drafts, scratch folders and staged files to which nothing was written for a time."""
    limit = datetime.now(UTC) - older_than
    candidates = [*_drafts(store), *_scratch(store), *_staged(store)]
    yield from (item for item in candidates if item.newest < limit)


def _drafts(store: Store) -> Iterator[Garbage]:
    for kind, key in store.names():
        if store.is_unfinished(kind, key):
            path = folder(kind, key)
            if found := store.objects.found(path):
                yield Garbage.of("draft", path, found)


def _scratch(store: Store) -> Iterator[Garbage]:
    root = scratch_root(store.objects)
    for path in sorted(root.glob("scratch/*/*")):
        found = [Found.of(root, file) for file in path.rglob("*") if file.is_file()]
        if found or path.is_dir():
            yield Garbage.of("scratch", str(path.relative_to(root)), [*found, Found.of(root, path)])


def _staged(store: Store) -> Iterator[Garbage]:
    """Yield files of killed processes beside those of published artifacts; a bucket has none."""
    if store.objects.local is not None:
        for item in store.objects.found("artifacts"):
            if item.path.endswith(".partial"):
                yield Garbage.of("staged file", item.path, [item])


def remove(store: Store, item: Garbage) -> bool:
    """Remove garbage, unless a process uses it again; return whether it did."""
    if item.what == "draft":
        return _remove_draft(store, item.path)
    if item.what == "scratch":
        return _remove_scratch(scratch_root(store.objects) / item.path)
    store.objects.delete([item.path])
    return True


def _remove_draft(store: Store, path: str) -> bool:
    manifest = f"{path}/manifest.json"
    store.objects.create(manifest, CONDEMNED)
    _, kind, key = path.split("/")
    if not store.is_unfinished(Kind(kind), key):  # its writer has published
        return False
    store.objects.delete([name for name in store.objects.sizes(path) if name != manifest])
    store.objects.remove_folder(path, "manifest.json")
    return True


def _remove_scratch(path: Path) -> bool:
    with suppress(Busy), claims(path, str(path)):
        shutil.rmtree(path, ignore_errors=True)
    return not path.exists()
