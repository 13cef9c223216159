import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from sdquant_cli.errors import DamagedArtifact, EnvironmentProblem, MissingArtifact, NewerFormat, UsageProblem
from sdquant_cli.manifests import PromptsFacts, PromptsSpec, artifact_key
from sdquant_cli.sealed import seal, write_json
from sdquant_cli.store import Absent, ArraySpec, Artifact, Draft, PinnedStore, ReadOnlyStore, Store
from sdquant_cli.types import Kind
from tests.store.making import ARRAYS, DATA, FACTS, SETTING, SPEC, Heard, fill, make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_what_is_written_is_read(store):
    artifact = make(store)
    assert np.array_equal(artifact.read("x"), DATA["x"])
    assert np.array_equal(artifact.read("row", 3, 7), [3, 4, 5, 6])
    assert artifact.facts == FACTS
    artifact.verify()


def test_plain_zarr_reads_the_arrays(store, tmp_path):
    artifact = make(store)
    group = zarr.open_group(tmp_path / "store" / artifact.path / "data.zarr", mode="r")
    assert np.array_equal(group["x"][:], DATA["x"])
    assert group["x"].metadata.dimension_names == ("sample", "channel", "width")


def test_the_same_spec_is_found_and_another_is_not(store):
    first = make(store)
    again = store.begin(SPEC, {}, ARRAYS, 3)
    assert isinstance(again, Artifact)
    assert again.ref == first.ref
    assert isinstance(store.begin(SPEC.model_copy(update={"seed": 1}), {}, ARRAYS, 3), Draft)


def test_every_part_of_the_identity_changes_the_key(store):
    inputs = {"prompts": make(store).ref}
    layout = {"x": 1}
    key = artifact_key(SPEC, inputs, layout)
    assert key == artifact_key(SPEC.model_copy(), dict(inputs), dict(layout))
    other_setting = SETTING.model_copy(update={"steps": 49})
    others = [
        artifact_key(SPEC.model_copy(update={"per_prompt": 2}), inputs, layout),
        artifact_key(SPEC.model_copy(update={"setting": other_setting}), inputs, layout),
        artifact_key(SPEC, {}, layout),
        artifact_key(SPEC, {"prompts": inputs["prompts"].model_copy(update={"digest": "0"})}, layout),
        artifact_key(SPEC, inputs, {"x": 2}),
    ]
    assert len({key, *others}) == 1 + len(others)


def test_keys_do_not_depend_on_the_process():
    code = (
        "from tests.store.making import SPEC\nfrom sdquant_cli.manifests import artifact_key\n"
        "print(artifact_key(SPEC, {}, {'b': 1, 'a': 2}))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == artifact_key(SPEC, {}, {"a": 2, "b": 1})


def test_an_interrupted_draft_goes_on_and_ends_in_the_same_digest(store, tmp_path):
    draft = store.begin(SPEC, {}, ARRAYS, 3)
    fill(draft, [1])
    # a killed worker leaves the bytes of a unit, torn, without a receipt
    torn = tmp_path / "store" / draft.path / "data.zarr" / "x" / "c" / "0" / "0"
    torn.mkdir(parents=True)
    (torn / "0").write_bytes(b"half a shard")
    assert store.latest(Kind.LATENTS) is None
    assert store.artifacts() == []
    resumed = Store(store.url).begin(SPEC, {}, ARRAYS, 3)
    assert resumed.missing() == [0, 2]
    fill(resumed)
    digest = resumed.publish(FACTS, store.provenance(1)).manifest.digest
    assert digest == make(Store(str(tmp_path / "other"))).manifest.digest


def test_a_chunk_is_a_unit_unless_it_is_smaller():
    sizes = [
        (ArraySpec((20,), "int64", ("x",), unit, chunk).info)
        for unit, chunk in ((8, None), (8, 3), (None, None))
    ]
    assert [(info.unit_rows, info.chunk_rows) for info in sizes] == [(8, 8), (9, 3), (20, 20)]


def test_rows_that_are_not_a_unit_are_refused(store):
    draft = store.begin(SPEC, {}, ARRAYS, 3)
    with pytest.raises(ValueError, match="unit 0 takes"):
        draft.write(0, {"x": DATA["x"][:3]})


def test_zeros_and_nan_are_stored(store):
    arrays = {**ARRAYS, "x": replace(ARRAYS["x"], finite=False)}
    draft = store.begin(SPEC, {}, arrays, 3)
    values = np.zeros((10, 2, 3), "f2")
    values[3] = np.nan
    for unit in draft.missing():
        start, stop = draft.rows(unit, "x")
        rows = {"x": values[start:stop], "row": np.zeros(stop - start, np.int64)}
        draft.write(unit, rows)
    artifact = draft.publish(FACTS, store.provenance(1))
    assert np.array_equal(artifact.read("x"), values, equal_nan=True)
    assert sum(item.path.endswith("zarr.json") is False for item in artifact.objects()) == 6


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
@pytest.mark.parametrize("victim", ["data.zarr/x/c/1/0/0", "data.zarr/x/zarr.json"])
def test_damage_is_found_and_named(store, tmp_path, damage, victim):
    artifact = make(store)
    path = tmp_path / "store" / artifact.path / victim
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    elif damage == "delete":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncate" else b"")
    with pytest.raises(DamagedArtifact, match=victim):
        artifact.verify()
    if damage != "flip":
        with pytest.raises(DamagedArtifact, match=victim):
            store.need(Kind.LATENTS)
    elif victim.endswith("/0"):
        with pytest.raises(DamagedArtifact, match="cannot be read"):
            artifact.read("x")


def test_a_flipped_digit_in_a_manifest_is_found(store, tmp_path):
    artifact = make(store)
    path = tmp_path / "store" / artifact.path / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace(artifact.manifest.digest, "0" * 64))
    with pytest.raises(DamagedArtifact, match="does not match"):
        store.need(Kind.LATENTS).verify()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DamagedArtifact, match="manifest"):
        store.need(Kind.LATENTS)


def test_manifests_of_before_the_checksum_are_read(store, tmp_path):
    artifact = make(store)
    path = tmp_path / "store" / artifact.path / "manifest.json"
    document = json.loads(path.read_text())
    assert document.pop("checksum") == artifact.manifest.checksum
    assert document["provenance"].pop("peak_memory") != 0  # of before the meter, too
    path.write_text(json.dumps({**document, "format": 1}))
    old = store.need(Kind.LATENTS)
    assert old.manifest.provenance.peak_memory is None
    assert np.array_equal(old.read("x"), DATA["x"])
    old.verify()


def test_what_it_took_goes_on_from_the_last_checkpoint(store):
    draft = store.begin(SPEC, {}, ARRAYS, 3)
    write_json(draft.scratch / "cost.json", {"seconds": 100, "peak_memory": 9000000000000})
    resumed = store.begin(SPEC, {}, ARRAYS, 3)
    assert 100 < resumed.meter.seconds < 160
    resumed.meter.save()
    again = store.begin(SPEC, {}, ARRAYS, 3)
    fill(again)
    took = again.publish(FACTS, store.provenance(1)).manifest.provenance
    assert took.seconds > 100
    assert took.peak_memory in (9_000_000_000_000, None)


def test_one_process_at_a_time_makes_an_artifact_of_one_unit(store, monkeypatch):
    script = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print(flush=True); sys.stdin.read()"
    )
    store = Store(store.url, Heard())
    draft = store.begin(SPEC, {}, ARRAYS, 1)
    folder, name = draft.scratch, draft.name
    del draft  # nobody holds it any more
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder / "lock")], stdin=-1, stdout=-1, start_new_session=True
    ) as other:
        try:
            other.stdout.readline()
            looks = []

            def pause(seconds):
                looks.append(seconds)
                if len(looks) == 8:
                    other.stdin.close()
                    other.wait()

            monkeypatch.setattr("time.sleep", pause)
            draft = store.begin(SPEC, {}, ARRAYS, 1)
        finally:
            other.kill()
    assert draft.name == name
    assert len(looks) == 8
    assert looks == sorted(looks)
    assert store.events.notes == [f"waiting for another process, which computes latents/{folder.name}"]


def test_what_a_pinned_store_tags_stays_whatever_another_process_tags(store):
    first, second = make(store), make(store, SPEC.model_copy(update={"seed": 1}))
    pinned = PinnedStore(store.url)
    assert pinned.need(Kind.LATENTS).ref == store.need(Kind.LATENTS).ref
    pinned.tag(first)
    assert store.need(Kind.LATENTS).ref == first.ref
    store.tag(second)
    assert pinned.need(Kind.LATENTS).ref == pinned.resolve("latents").ref == first.ref
    assert PinnedStore(store.url).need(Kind.LATENTS).ref == second.ref


def test_a_read_only_store_finds_what_is_there_and_changes_nothing(store, tmp_path):
    artifact = make(store)
    read_only = ReadOnlyStore(store.url)
    found = read_only.begin(SPEC, {}, ARRAYS, 3)
    assert found.ref == artifact.ref
    before = sorted(tmp_path.rglob("*"))
    read_only.tag(found, "mine")
    assert read_only.need(Kind.LATENTS, "mine").ref == read_only.need(Kind.LATENTS).ref == artifact.ref
    with pytest.raises(Absent, match="artifacts/latents/"):
        read_only.begin(SPEC.model_copy(update={"seed": 1}), {}, ARRAYS, 3)
    assert sorted(tmp_path.rglob("*")) == before
    assert store.latest(Kind.LATENTS, "mine") is None


def test_newer_formats_are_refused(store, tmp_path):
    artifact = make(store)
    path = tmp_path / "store" / artifact.path / "manifest.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "format": 3, "unheard of": 1}))
    with pytest.raises(NewerFormat, match=r"manifest\.json: format 3"):
        store.need(Kind.LATENTS)
    # a later version of the same format has added a field
    path.write_bytes(seal({**document, "unheard of": 1}))
    with pytest.raises(NewerFormat, match=r"field unheard of.*a version of sdquant other than"):
        store.need(Kind.LATENTS)
    entry = tmp_path / "store" / "tags" / "latents" / "latest" / "00000000.json"
    entry.write_text('{"format": 2, "keys": []}')
    with pytest.raises(NewerFormat, match=r"00000000\.json: format 2"):
        store.need(Kind.LATENTS)
    (tmp_path / "store" / "sdquant-store.json").write_text('{"format": 2, "place": "x"}')
    with pytest.raises(NewerFormat, match=r"sdquant-store\.json: format 2"):
        Store(str(tmp_path / "store"))


def test_tags_move_and_keep_their_history(store, tmp_path):
    first, second = make(store), make(store, SPEC.model_copy(update={"seed": 1}))
    assert store.need(Kind.LATENTS).ref == second.ref
    store.tag(first)
    assert store.need(Kind.LATENTS).ref == first.ref
    assert store.tags() == {first.manifest.key: ["latest"]}
    assert len(list((tmp_path / "store" / "tags" / "latents" / "latest").iterdir())) == 3
    with pytest.raises(UsageProblem, match="tag"):
        store.tag(first, "../evil")


def test_names_are_resolved(store):
    artifact = make(store)
    key = artifact.manifest.key
    for name in ("latents", "latents/latest", f"latents/{key}", key, key[:6]):
        assert store.resolve(name).ref == artifact.ref
    with pytest.raises(MissingArtifact, match="no artifact named 'zzz'"):
        store.resolve("zzz")
    with pytest.raises(MissingArtifact, match="sdquant generate"):
        store.resolve("images")


def test_what_others_depend_on_is_not_removed(store, tmp_path):
    parent = make(store)
    spec = PromptsSpec(count=1, sha256="0")
    draft = store.begin(spec, {"latents": parent.ref}, {"text": ArraySpec((3,), "uint8", ("byte",))})
    draft.write(0, {"text": np.arange(3)})
    child = draft.publish(PromptsFacts(source="a.txt", prompts=1, unique=1), store.provenance(1))
    with pytest.raises(UsageProblem, match=child.manifest.key):
        store.remove(parent)
    store.remove(child)
    store.remove(parent)
    assert store.artifacts() == []
    assert not (tmp_path / "store" / parent.path).exists()
    with pytest.raises(MissingArtifact):
        store.need(Kind.LATENTS)
    assert isinstance(store.begin(SPEC, {}, ARRAYS, 3), Draft)


def test_looking_at_an_absent_store_creates_nothing(tmp_path):
    store = Store(str(tmp_path / "absent"))
    assert store.artifacts() == []
    with pytest.raises(MissingArtifact, match="sdquant sample"):
        store.need(Kind.LATENTS)
    assert not (tmp_path / "absent").exists()


def test_a_file_is_not_a_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageProblem, match="is a file"):
        Store(str(tmp_path / "file"))


def test_a_full_disk_is_one_line_and_loses_nothing(store, monkeypatch):
    import obstore

    draft = store.begin(SPEC, {}, ARRAYS, 3)
    fill(draft, [0])
    real = obstore.put

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(obstore, "put", full)
    with pytest.raises(EnvironmentProblem, match="disk is full"):
        fill(draft, [1])
    monkeypatch.setattr(obstore, "put", real)
    fill(store.begin(SPEC, {}, ARRAYS, 3))
    assert np.array_equal(draft.publish(FACTS, store.provenance(1)).read("x"), DATA["x"])
