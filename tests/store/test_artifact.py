"""Artifacts by themselves: names, keys, digests, and the files they account for."""

import pytest

from sdquant_cli.errors import DamagedArtifact
from sdquant_cli.store import Artifact, Store
from sdquant_cli.store.artifact import content_digest, folder, key_of, object_of, receipt_path
from sdquant_cli.types import Kind
from tests.store.making import ARRAYS, FACTS, SPEC, flip, make


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def test_a_name_leads_to_the_artifact(store):
    artifact = make(store)
    assert artifact.name == artifact.ref.name == f"latents/{artifact.key}"
    assert store.resolve(artifact.name).ref == artifact.ref
    assert (artifact.kind, artifact.spec, artifact.facts) == (Kind.LATENTS, SPEC, FACTS)


def test_the_key_is_known_before_anything_is_stored(store):
    key = key_of(SPEC, {}, ARRAYS)
    artifact = make(store)
    assert (artifact.key, artifact.path) == (key, folder(Kind.LATENTS, key))
    assert key_of(SPEC, {"prompts": artifact.ref}, ARRAYS) != key
    assert key_of(SPEC, {}, {"x": ARRAYS["x"]}) != key


def test_the_digest_is_of_the_objects_in_any_order(store):
    artifact = make(store)
    items = list(artifact.objects())
    assert content_digest(reversed(items)) == artifact.manifest.digest
    assert content_digest(items[1:]) != artifact.manifest.digest
    data = (store.objects.local / artifact.path / items[0].path).read_bytes()
    assert object_of(items[0].path, data) == items[0]


def test_all_damage_is_named_at_once(store):
    artifact = make(store)
    root = store.objects.local
    flip(root / artifact.path / "data.zarr/x/c/1/0/0")
    (root / artifact.path / "spec.json").write_text("{}")
    (root / receipt_path(artifact.path, 2)).unlink()
    shard, spec, receipt = map(str, artifact.damage())
    assert "data.zarr/x/c/1/0/0 has sha256" in shard
    assert "spec.json is damaged: field setting" in spec
    assert f"units/000002.json is missing; remove it with `sdquant rm {artifact.name} --force`" in receipt
    with pytest.raises(DamagedArtifact, match="has sha256"):
        artifact.verify()


def test_a_class_of_one_kind_refuses_artifacts_of_another(store):
    class Latents(Artifact):
        KIND = Kind.LATENTS

    class Images(Artifact):
        KIND = Kind.IMAGES

    artifact = make(store)
    assert Latents.of(artifact).spec == SPEC
    with pytest.raises(ValueError, match=f"{artifact.name}: expected images"):
        Images.of(artifact)
