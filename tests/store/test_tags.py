"""Tags: numbered entries, of which the highest counts."""

import pytest

from sdquant_cli.errors import DamagedArtifact, UsageProblem
from sdquant_cli.store.objects import Objects
from sdquant_cli.store.tags import KEY, Tags, check_name, is_entry
from sdquant_cli.types import Kind

ONE, TWO = "1" * 20, "2" * 20


@pytest.fixture
def objects(tmp_path) -> Objects:
    return Objects(str(tmp_path))


def test_the_last_entry_counts(objects):
    tags = Tags(objects)
    assert tags.key(Kind.LATENTS, "latest") is None
    for key in (ONE, TWO, TWO):
        tags.append(Kind.LATENTS, "latest", key)
    tags.append(Kind.IMAGES, "mine", ONE)
    assert tags.key(Kind.LATENTS, "latest") == TWO
    assert tags.names() == [(Kind.IMAGES, "mine"), (Kind.LATENTS, "latest")]
    entries = sorted(objects.sizes("tags/latents"))
    assert entries == [f"tags/latents/latest/0000000{n}.json" for n in (0, 1)]  # TWO was there already


def test_a_number_that_another_writer_takes_is_passed(objects, monkeypatch):
    tags, create = Tags(objects), objects.create

    def other_first(path: str, data: bytes) -> bool:
        monkeypatch.setattr(objects, "create", create)
        Tags(objects).append(Kind.LATENTS, "latest", ONE)
        return create(path, data)

    monkeypatch.setattr(objects, "create", other_first)
    tags.append(Kind.LATENTS, "latest", TWO)
    assert tags.key(Kind.LATENTS, "latest") == TWO
    assert len(objects.sizes("tags")) == 2


def test_entries_that_are_lost_or_damaged_are_named(objects):
    tags = Tags(objects)
    for key in (ONE, TWO, ONE):
        tags.append(Kind.LATENTS, "latest", key)
    objects.delete(["tags/latents/latest/00000001.json"])
    (line,) = tags.gaps()
    assert line.endswith("tags/latents/latest: entries 1 are missing; entry 2 is used")
    (objects.local / "tags/latents/latest/00000002.json").write_text('{"key": "short"}')
    (problem,) = tags.problems()
    assert "expected 20 hex digits; set it again with `sdquant tag latents/KEY latest`" in str(problem)
    with pytest.raises(DamagedArtifact, match="00000002"):
        tags.key(Kind.LATENTS, "latest")


def test_names_and_paths_are_told_from_others():
    assert check_name("w4a8-mixed.2_x") == "w4a8-mixed.2_x"
    for name in ("", "a/b", "..", "a b"):
        with pytest.raises(UsageProblem, match="expected letters, digits"):
            check_name(name)
    assert is_entry("tags/latents/latest/00000000.json")
    assert not is_entry("tags/latents/latest/0.json")
    assert not is_entry("tags/nothing/latest/00000000.json")
    assert KEY.fullmatch(ONE)
    assert not KEY.fullmatch(ONE[1:])
