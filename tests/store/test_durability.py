"""What a power cut leaves: everything that a receipt, a manifest or a tag vouches for is synced before it."""

import os
from pathlib import Path

import numpy as np
import pytest

from sdquant_cli.store import Store
from tests.store.making import make


@pytest.fixture
def recorded(monkeypatch):
    """The order of things: ("sync", path) of files and folders, ("name", path) of new names."""
    import obstore

    events: list[tuple[str, Path]] = []
    open_files: dict[int, Path] = {}
    real_open, real_sync, real_rename = os.open, os.fsync, obstore.rename

    def opened(path, *args, **kwargs):
        handle = real_open(path, *args, **kwargs)
        open_files[handle] = Path(path)
        return handle

    def synced(handle):
        events.append(("sync", open_files[handle]))
        real_sync(handle)

    def renamed(store, source, target, **options):
        real_rename(store, source, target, **options)
        root = Path(store.prefix)
        # the name stands for the bytes that were synced under the first one
        events[:] = [(what, root / target if path == root / source else path) for what, path in events]
        events.append(("name", root / target))

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(obstore, "rename", renamed)
    return events


def test_objects_and_folders_are_synced_before_what_vouches_for_them(tmp_path, recorded):
    root = tmp_path / "new" / "store"
    artifact = make(Store(str(root)))
    files = {path for path in root.rglob("*") if path.is_file() and "scratch" not in path.parts}
    named = {path: at for at, (what, path) in enumerate(recorded) if what == "name"}
    named = {path: at for path, at in named.items() if path.parent.name != "leases"}  # advice only
    assert set(named) == files

    def when_durable(path: Path) -> int:
        """When its bytes, its name, and the names of all folders above it are on the disk."""
        assert ("sync", path) in recorded[: named[path]]  # a name never stands for half the bytes
        last = named[path]
        folders = [
            folder for folder in path.parents if folder == root.parent or root in (folder, *folder.parents)
        ]
        newest = path
        for folder in folders:
            appeared = min(at for name, at in named.items() if newest in (name, *name.parents))
            last = max(last, recorded.index(("sync", folder), appeared))
            newest = folder
        return last

    durable = {path: when_durable(path) for path in files}
    home = root / artifact.path
    manifest, tag = home / "manifest.json", root / "tags" / "latents" / "latest" / "00000000.json"
    for unit, receipt in enumerate(artifact.manifest.units):
        file = home / "units" / f"{unit:06d}.json"
        vouched = [home / item.path for item in (*artifact.manifest.metadata, *receipt.objects)]
        assert all(durable[path] < named[file] for path in (*vouched, home / "spec.json"))
        assert durable[file] < named[manifest]
    assert durable[root / "sdquant-store.json"] < named[manifest]
    assert durable[manifest] < named[tag]


def test_the_manifest_goes_first_and_for_good(tmp_path, monkeypatch):
    """After a power cut within `rm`, nothing that is gone is still vouched for."""
    import shutil

    store = Store(str(tmp_path / "store"))
    artifact = make(store)
    real_sync, seen = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append("sync"), real_sync(handle)))
    home = tmp_path / "store" / artifact.path

    def removed(folder, *args, **kwargs):
        if Path(folder) == home:
            assert not (home / "manifest.json").exists()
            assert (home / "spec.json").exists()
            assert seen[-1:] == ["sync"]

    monkeypatch.setattr(shutil, "rmtree", removed)
    store.remove(artifact)
    assert np.array_equal([entry.state for entry in store.entries()], ["unfinished"])
