"""Damage of every kind of file: one line that names it, and everything else goes on."""

import json
import random
import re
from contextlib import suppress

import numpy as np
import pytest

from sdquant_cli.errors import DamagedArtifact, MissingArtifact, SdquantError, UsageProblem
from sdquant_cli.manifests import DriftFacts, DriftSpec
from sdquant_cli.sealed import parse
from sdquant_cli.store import ArraySpec, Artifact, Draft, Store
from sdquant_cli.store.documents import read_manifest
from sdquant_cli.types import Kind
from tests.store.making import (
    ARRAYS,
    DATA,
    FACTS,
    SPEC,
    UNITS,
    begun,
    complaint,
    fill,
    flip,
    make,
    warnings_of,
)

OTHER = SPEC.model_copy(update={"seed": 1})
BRACKETS = b"[" * 100_000
NO_OBJECT = {
    "empty": b"",
    "list": b"[1, 2]",
    "brackets": BRACKETS,
    "brackets in an object": b'{"format": 1, "key": ' + BRACKETS,
    "infinite format": b'{"format": 1e999}',
    "format of text": b'{"format": "x"}',
    "no text": b"\xff\xfe\x00",
    "long number": b'{"format": ' + b"9" * 5000 + b"}",
}


@pytest.fixture
def store(sdquant) -> Store:
    return sdquant.opened()


# -------------------------------------------------------------------------------------- manifests


def test_a_changed_digit_anywhere_in_a_manifest_is_found(store, tmp_path):
    artifact = make(store)
    path = tmp_path / "store" / artifact.path / "manifest.json"
    text = path.read_text()
    digits = [match.start() for match in re.finditer(r"\d", text)]
    assert len(digits) > 300
    for at in random.Random(0).sample(digits, 60):
        changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
        with suppress(ValueError):  # of a number that begins with 0
            if parse(changed.encode()) == parse(text.encode()):
                continue
        path.write_text(changed)
        with pytest.raises(SdquantError, match=r"manifest\.json"):
            store.need(Kind.LATENTS)
    path.write_text(text.replace('"unet_calls": 3', '"unet_calls": 4'))
    with pytest.raises(DamagedArtifact, match=r"checksum does not match.*sdquant rm latents/\w+ --force"):
        store.begin(SPEC, {}, ARRAYS, UNITS)
    document = parse(text.encode())
    del document["checksum"]
    path.write_text(json.dumps(document))
    with pytest.raises(DamagedArtifact, match="no checksum"):
        store.need(Kind.LATENTS)


@pytest.mark.parametrize("data", NO_OBJECT.values(), ids=NO_OBJECT)
def test_what_is_no_manifest_is_named(data):
    with pytest.raises(DamagedArtifact, match=r"^here is damaged: .*`sdquant rm latents/0 --force`"):
        read_manifest(Kind.LATENTS, "0", data, "here")


def test_a_bad_manifest_does_not_close_the_store(sdquant, store):
    bad, good = make(store), make(store, OTHER)
    (sdquant.store / bad.path / "manifest.json").write_bytes(BRACKETS)
    name = f"latents/{bad.key}"
    listed = sdquant("ls")
    assert len(warnings_of(listed)) == 1
    assert f"{bad.path}/manifest.json is damaged" in warnings_of(listed)[0]
    rows = {row["artifact"]: row["state"] for row in json.loads(sdquant("ls", "--json").stdout)}
    assert rows == {name: "damaged", f"latents/{good.key}": "published"}
    sdquant("show", "latents")
    assert name in complaint(sdquant("show", name, code=3))
    assert f"latents/{good.key} is intact" in sdquant("verify", code=3).stdout
    # what else is removed meanwhile
    sdquant("rm", f"latents/{good.key}")
    sdquant("rm", name, "--force")
    assert sdquant("ls").stdout.splitlines()[1:] == []
    assert isinstance(store.begin(SPEC, {}, ARRAYS, UNITS), Draft)


def test_a_manifest_with_nan_of_before_is_named_and_does_not_close_the_store(sdquant, store):
    artifact, _ = make(store), make(store, OTHER)
    path = sdquant.store / artifact.path / "manifest.json"
    document = {k: v for k, v in parse(path.read_bytes()).items() if k != "checksum"}
    document |= {"format": 1, "facts": {**document["facts"], "unet_calls": float("nan")}}
    path.write_text(json.dumps(document))
    assert "NaN is not a finite number" in warnings_of(sdquant("ls"))[0]
    assert "NaN is not a finite number" in complaint(sdquant("verify", code=3))
    sdquant("rm", f"latents/{artifact.key}")


def test_a_copy_of_another_manifest_is_damage(sdquant, store):
    one, other = make(store), make(store, OTHER)
    text = (sdquant.store / one.path / "manifest.json").read_text()
    (sdquant.store / other.path / "manifest.json").write_text(text)
    with pytest.raises(DamagedArtifact, match=f"it is the manifest of {one.key}"):
        store.need(Kind.LATENTS)


def test_numbers_that_are_not_finite_are_not_published(store):
    draft = begun(store)
    bad = DATA["x"][:4].copy()
    bad[1, 1, 1], bad[2, 0, 0] = np.nan, np.inf
    with pytest.raises(SdquantError, match=r"2 of 24 numbers of x are not finite"):
        draft.write(0, {"x": bad, "row": DATA["row"][:4]})
    with pytest.raises(SdquantError, match="1 of 24"):  # too large for fp16
        draft.write(0, {"x": np.where(np.arange(24).reshape(4, 2, 3) == 5, 1e6, 0.0), "row": DATA["row"][:4]})
    assert draft.missing() == [0, 1, 2]
    fill(draft)
    assert isinstance(draft.publish(FACTS, store.provenance(1)), Artifact)
    spec = DriftSpec(setting=SPEC.setting, prompts=1, seed=0, micro_batch=1)
    draft = store.begin(spec, {}, {"x": ArraySpec((1,), "float64", ("sample",), finite=False)})
    draft.write(0, {"x": np.array([np.nan])})
    facts = DriftFacts(
        timesteps=(3.0, 1.0), latent_cosine=(0.5, float("nan")), latent_snr=(), prediction_sqnr=()
    )
    with pytest.raises(SdquantError, match=r"facts\.latent_cosine\.1 is not a finite number"):
        draft.publish(facts, store.provenance(1))
    assert store.latest(Kind.DRIFT) is None
    assert [entry.state for entry in store.entries()] == ["published", "unfinished"]


def test_a_spec_that_is_not_finite_has_no_key(store):
    setting = SPEC.setting.model_copy(update={"guidance_scale": float("inf")})
    with pytest.raises(UsageProblem, match=r"setting.guidance_scale is not a finite number"):
        begun(store, SPEC.model_copy(update={"setting": setting}))


# ------------------------------------------------------------------------------------------- tags


def test_a_damaged_tag_is_named_and_nothing_older_takes_its_place(sdquant, store):
    first, second = make(store), make(store, OTHER)
    entry = sdquant.store / "tags" / "latents" / "latest" / "00000001.json"
    for data in (*NO_OBJECT.values(), b'{"key": "../../x"}', b'{"key": 3}', b"{}"):
        entry.write_bytes(data)
        with pytest.raises(
            DamagedArtifact, match=r"latest/00000001\.json is damaged.*sdquant tag latents/KEY"
        ):
            store.need(Kind.LATENTS)
    assert "00000001.json" in warnings_of(sdquant("ls"))[0]
    assert "00000001.json" in complaint(sdquant("verify", code=3))
    sdquant("tag", f"latents/{second.key}", "latest")
    assert store.need(Kind.LATENTS).ref == second.ref != first.ref


def test_a_flipped_digit_of_a_tags_key_is_found(sdquant, store):
    artifact = make(store)
    entry = sdquant.store / "tags" / "latents" / "latest" / "00000000.json"
    entry.write_text(entry.read_text().replace(artifact.key[:3], "fff"))
    with pytest.raises(DamagedArtifact, match="checksum"):
        store.need(Kind.LATENTS)


def test_a_tag_of_what_was_removed_says_so(store):
    artifact = make(store)
    store.remove(artifact)
    with pytest.raises(MissingArtifact, match=f"latents/{artifact.key}, tagged latest, was removed"):
        store.need(Kind.LATENTS)


def test_a_gap_in_a_tags_numbers_is_told_and_the_next_entry_still_counts(sdquant, store):
    first, second = make(store), make(store, OTHER)
    for artifact in (first, second):
        store.tag(artifact)
    for number in (1, 2):
        (sdquant.store / "tags" / "latents" / "latest" / f"{number:08d}.json").unlink()
    assert "tags/latents/latest: entries 1, 2 are missing; entry 3 is used" in warnings_of(sdquant("ls"))[0]
    assert any("entries 1, 2 are missing" in line for line in warnings_of(sdquant("verify")))
    store.tag(first)
    assert store.need(Kind.LATENTS).ref == first.ref


# ---------------------------------------------------------------------------------- foreign files


def test_foreign_files_are_passed_over_and_named_by_verify(sdquant, store):
    artifact = make(store)
    foreign = [
        ".DS_Store",
        "artifacts/.DS_Store",
        "artifacts/posters/0123456789abcdef0123/manifest.json",
        "artifacts/latents/notes.txt",
        "artifacts/latents/stray/manifest.json",
        f"{artifact.path}/.DS_Store",
        f"{artifact.path}/manifest.json~",
        f"{artifact.path}/units/.000000.json.swp",
        "tags/.DS_Store",
        "tags/latents/.DS_Store",
        "tags/latents/latest/.DS_Store",
        "tags/latents/latest/00000000.json~",
        "tags/latents/latest/folder/00000009.json",
        "tags/latents/latest/00000000 (copy).json",
        "tags/posters/latest/00000000.json",
    ]
    for name in foreign:
        (sdquant.store / name).parent.mkdir(parents=True, exist_ok=True)
        (sdquant.store / name).write_bytes(b"\x00\x01")
    assert warnings_of(sdquant("ls")) == []
    assert store.need(Kind.LATENTS).ref == artifact.ref
    sdquant("show", artifact.key)
    told = warnings_of(sdquant("verify"))
    assert sorted(re.search("'(.*?)'", line)[1] for line in told) == sorted(foreign)
    sdquant("rm", artifact.key)
    assert not (sdquant.store / artifact.path).exists()


@pytest.mark.parametrize("command", ["show", "rm"])
def test_names_that_lead_elsewhere_are_one_line(sdquant, store, command):
    make(store)  # and is not meant by an empty name
    for name in ("latents/../../x", "latents/..", "../x", "/etc", "latents/a/b", "", "é/x"):
        result = sdquant(command, name, code=2 if name.startswith("latents/") else 3)
        assert name.removeprefix("latents/") in complaint(result)


# ----------------------------------------------------------------------------------------- verify


def test_verify_lists_all_damage_and_then_exits(sdquant, store):
    one, other = make(store), make(store, OTHER)
    harmed = [f"{one.path}/{name}" for name in ("data.zarr/x/c/1/0/0", "data.zarr/x/zarr.json", "spec.json")]
    harmed += [f"{other.path}/units/000001.json", f"{other.path}/data.zarr/zarr.json"]
    for name in harmed:
        flip(sdquant.store / name)
    result = sdquant("verify", code=3)
    told = warnings_of(result)
    assert len(told) == len(harmed)
    for name, line in zip(
        harmed, sorted(told, key=lambda line: [n in line for n in harmed][::-1]), strict=True
    ):
        assert name in line
    assert "5 files are damaged" in complaint(result)
    assert result.stdout == ""


def test_verify_tells_manifests_that_are_not_protected(sdquant, store):
    artifact = make(store)
    path = sdquant.store / artifact.path / "manifest.json"
    document = {k: v for k, v in parse(path.read_bytes()).items() if k != "checksum"}
    path.write_text(json.dumps({**document, "format": 1}))
    result = sdquant("verify")
    assert "has no checksum" in warnings_of(result)[0]
    assert "is intact" in result.stdout


def test_a_manifest_that_is_gone_is_found_by_its_tag_and_made_again(sdquant, store):
    artifact = make(store)
    (sdquant.store / artifact.path / "manifest.json").unlink()
    assert "manifest.json is missing, and the artifact is tagged latest" in complaint(
        sdquant("verify", code=3)
    )
    assert store.begin(SPEC, {}, ARRAYS, UNITS).missing() == []
    assert make(store).ref == artifact.ref


@pytest.mark.parametrize("victim", ["data.zarr/x/zarr.json", "data.zarr/zarr.json", "data.zarr/x/c/1/0/0"])
def test_a_reader_meets_no_damage_in_silence(sdquant, store, victim):
    """Neither zarr's own errors on metadata nor the fill value that it reads for a missing shard."""
    artifact = make(store)
    path = sdquant.store / artifact.path / victim
    data = path.read_bytes()
    for changed in (b"", b"{}", b"[]", data.replace(b"16", b"32").replace(b'"shape"', b'"shapes"'), None):
        if changed is None:
            path.unlink()
        else:
            path.write_bytes(changed)
        if changed != data:
            with pytest.raises(DamagedArtifact):
                store.find(Kind.LATENTS, artifact.key).read("x")
