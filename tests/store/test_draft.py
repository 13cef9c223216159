"""Drafts that were harmed, are listed, go on or are removed; and links out of the store."""

import json

import numpy as np
import pytest

from sdquant_cli.errors import DamagedArtifact
from sdquant_cli.store import Store, checks
from sdquant_cli.types import Kind
from tests.store.making import (
    ARRAYS,
    DATA,
    FACTS,
    SPEC,
    UNITS,
    Heard,
    begun,
    complaint,
    fill,
    flip,
    make,
    warnings_of,
)


@pytest.mark.parametrize("damage", ["empty", "flip", "delete"])
@pytest.mark.parametrize(
    "victim",
    [
        "units/000001.json",
        "data.zarr/x/c/1/0/0",
        "data.zarr/x/zarr.json",
        "data.zarr/zarr.json",
        "spec.json",
    ],
)
def test_a_harmed_draft_is_mended(sdquant, tmp_path, victim, damage):
    draft = begun(sdquant.opened())
    fill(draft, [0, 1])
    path = sdquant.store / draft.path / victim
    if damage == "flip":
        flip(path)
    elif damage == "delete":
        path.unlink()
    else:
        path.write_bytes(b"")
    heard = Heard()
    resumed = begun(Store(str(sdquant.store), heard))
    of_unit = victim.startswith(("units", "data.zarr/x/c"))
    assert resumed.missing() == ([1, 2] if of_unit else [2])
    assert len(heard.warnings) == (0 if damage == "delete" and not victim.endswith("/0") else 1)
    fill(resumed)
    artifact = resumed.publish(FACTS, sdquant.opened().provenance(1))
    artifact.verify()
    assert artifact.ref == make(Store(str(tmp_path / "other"))).ref


def test_another_valid_shard_in_a_draft_is_not_published(sdquant):
    draft = begun(sdquant.opened())
    fill(draft, [0, 1])
    shards = sdquant.store / draft.path / "data.zarr" / "x" / "c"
    (shards / "1" / "0" / "0").write_bytes((shards / "0" / "0" / "0").read_bytes())
    resumed = begun(sdquant.opened())
    fill(resumed)
    assert np.array_equal(resumed.publish(FACTS, sdquant.opened().provenance(1)).read("x"), DATA["x"])


def test_a_shard_that_goes_while_the_artifact_is_made_is_told_before_publishing(sdquant):
    store = sdquant.opened()
    draft = begun(store)
    fill(draft)
    (sdquant.store / draft.path / "data.zarr" / "x" / "c" / "1" / "0" / "0").unlink()
    with pytest.raises(DamagedArtifact, match="unit 1 was changed while the artifact was written"):
        draft.publish(FACTS, store.provenance(1))
    assert store.latest(Kind.LATENTS) is None
    assert begun(store).missing() == [1]
    make(store).verify()


def test_drafts_are_listed_and_removed(sdquant):
    draft = begun(sdquant.opened())
    fill(draft, [0])
    draft.scratch.joinpath("00000050.pt").write_bytes(b"1")
    name = f"latents/{draft.path.rpartition('/')[2]}"
    (row,) = json.loads(sdquant("ls", "--json").stdout)
    assert row == {"artifact": name, "tags": [], "created": None, "bytes": None, "state": "unfinished"}
    assert "unfinished" in sdquant("ls").stdout
    assert f"{name} is unfinished" in warnings_of(sdquant("verify"))[0]
    assert "is unfinished" in complaint(sdquant("show", name, code=3))
    sdquant("rm", name)
    assert sdquant.opened().entries() == []
    assert not draft.scratch.exists()


def test_scratch_of_a_run_killed_after_publishing_goes_with_the_next(sdquant):
    artifact = make(sdquant.opened())
    scratch = sdquant.store / "scratch" / "latents" / artifact.key
    scratch.mkdir(parents=True)
    (scratch / "00000050.pt").write_bytes(b"1")
    assert sdquant.opened().begin(SPEC, {}, ARRAYS, UNITS).ref == artifact.ref
    assert not scratch.exists()
    assert list(checks.remarks(sdquant.opened(), sdquant.opened().entries())) == []


# ------------------------------------------------------------------------------------------ links


def test_rm_never_leaves_the_store(sdquant, tmp_path):
    artifact = make(sdquant.opened())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("kept")
    (sdquant.store / artifact.path / "link").symlink_to(outside)
    (sdquant.store / artifact.path / "data.zarr" / "file").symlink_to(outside / "precious.txt")
    (sdquant.store / artifact.path / "loop").symlink_to(sdquant.store)
    sdquant("ls")
    sdquant("rm", artifact.key)
    assert not (sdquant.store / artifact.path).exists()
    assert (outside / "precious.txt").read_text() == "kept"


def test_rm_of_an_artifact_behind_a_link(sdquant, tmp_path):
    artifact = make(sdquant.opened())
    kept = tmp_path / "elsewhere"
    (sdquant.store / artifact.path).rename(kept)
    (sdquant.store / artifact.path).symlink_to(kept)
    artifact.verify()
    sdquant("rm", artifact.key)
    assert (kept / "manifest.json").is_file()
    assert not (sdquant.store / artifact.path).is_symlink()
    # a whole kind on another disk
    make(sdquant.opened())
    moved = tmp_path / "moved"
    (sdquant.store / "artifacts" / "latents").rename(moved)
    (sdquant.store / "artifacts" / "latents").symlink_to(moved)
    sdquant("verify")
    assert "is a link out of the store" in complaint(sdquant("rm", artifact.key, code=2))
    assert (moved / artifact.key / "manifest.json").is_file()
