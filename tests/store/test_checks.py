"""The checks behind `sdquant verify`."""

from sdquant_cli.store import Store
from sdquant_cli.store.checks import damage, remarks, tag_damage
from tests.store.making import SPEC, begun, fill, flip, make


def test_damage_and_remarks_are_told_apart(tmp_path):
    store = Store(str(tmp_path / "store"))
    published = make(store)
    draft = begun(store, SPEC.model_copy(update={"seed": 1}))
    fill(draft, [0])
    entries = store.entries()
    assert [list(damage(entry)) for entry in entries] == [[], []]
    (tmp_path / "store" / "notes.txt").write_text("mine")
    unfinished, unknown = remarks(store, entries)
    assert f"latents/{draft.path.rpartition('/')[2]} is unfinished; run the command" in unfinished
    assert unknown == f"'notes.txt' in {store.url} is not an sdquant file and is ignored"

    flip(tmp_path / "store" / published.path / "data.zarr/row/c/0")
    ((shard,), _) = [list(damage(entry)) for entry in store.entries()]
    assert "data.zarr/row/c/0 has sha256" in str(shard)


def test_a_manifest_that_cannot_be_read_is_damage(tmp_path):
    store = Store(str(tmp_path / "store"))
    artifact = make(store)
    manifest = tmp_path / "store" / artifact.path / "manifest.json"
    manifest.write_text("{")
    (entry,) = store.entries()
    assert entry.state == "damaged"
    (problem,) = damage(entry)
    assert "manifest.json is damaged" in str(problem)
    assert list(tag_damage(store, [entry])) == []
    manifest.unlink()
    (problem,) = tag_damage(store, store.entries())
    assert "manifest.json is missing, and the artifact is tagged latest" in str(problem)
