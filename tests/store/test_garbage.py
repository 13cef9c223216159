"""What `sdquant gc` removes, and what it leaves."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from sdquant_cli.errors import EnvironmentProblem
from sdquant_cli.store import Store
from sdquant_cli.store.documents import CONDEMNED
from sdquant_cli.store.garbage import garbage, remove
from sdquant_cli.types import Kind
from tests.conftest import Sdquant
from tests.store.making import FACTS, SPEC, begun, fill, make
from tests.store.s3 import BUCKET, serving

OTHER = SPEC.model_copy(update={"seed": 1})
AGE = timedelta(days=14)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def grow_old(folder: Path, days: float = 20) -> None:
    then = time.time() - days * 86400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


def left(store: Store, spec=OTHER) -> str:
    """Have a run write a unit and end; return the draft's path."""
    draft = begun(store, spec)
    fill(draft, [1])
    return draft.path


def test_what_is_old_and_unfinished_goes_and_the_rest_stays(store, tmp_path):
    artifact, root = make(store), tmp_path / "store"
    path = left(store)
    staged = root / artifact.path / "units" / "000000.json.0123.partial"
    staged.write_bytes(b"half")
    assert list(garbage(store, AGE)) == []
    grow_old(root)
    found = list(garbage(store, AGE))
    assert [item.what for item in found] == ["draft", "scratch", "staged file"]
    assert found[0].path == path
    assert 19 < found[0].days < 21
    assert all(remove(store, item) for item in found)
    assert list(garbage(store, timedelta(0))) == []
    assert not (root / path).exists()
    assert not staged.exists()
    assert not list(root.glob("scratch/*/*"))
    store.need(Kind.LATENTS).verify()
    assert begun(store, OTHER).missing() == [0, 1, 2]  # as if it had never been begun


def test_a_draft_to_which_something_was_written_lately_stays(store, tmp_path):
    path = left(store)
    grow_old(tmp_path / "store")
    draft = begun(store, OTHER)
    fill(draft, [0])
    assert [item.path for item in garbage(store, AGE) if item.what == "draft"] == []
    assert (tmp_path / "store" / path / "units").is_dir()


def test_scratch_that_a_process_holds_stays(store, tmp_path):
    draft = begun(store, OTHER)
    grow_old(tmp_path / "store")
    (scratch,) = [item for item in garbage(store, AGE) if item.what == "scratch"]
    lock, draft._lock = draft._lock, None
    file = Path(lock.lock_file)
    lock.release(force=True)
    code = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        assert not remove(store, scratch)
        other.kill()
    assert remove(store, scratch)


def test_a_slow_writer_cannot_publish_what_is_being_removed(store):
    draft = begun(store, OTHER)
    fill(draft)
    store.objects.create(f"{draft.path}/manifest.json", CONDEMNED)
    assert store.find(Kind.LATENTS, draft._key) is None
    with pytest.raises(EnvironmentProblem, match="`sdquant gc` has removed it"):
        draft.publish(FACTS, store.provenance(1))


def test_nor_what_was_removed_while_it_published(store, monkeypatch):
    draft = begun(store, OTHER)
    fill(draft)
    create = draft._objects.create

    def late(path, data, **options):
        if path.endswith("manifest.json") and data != CONDEMNED:
            (item,) = [item for item in garbage(store, timedelta(0)) if item.what == "draft"]
            assert remove(store, item)
        return create(path, data, **options)

    monkeypatch.setattr(draft._objects, "create", late)
    with pytest.raises(EnvironmentProblem, match="`sdquant gc` has removed it"):
        draft.publish(FACTS, store.provenance(1))
    assert store.find(Kind.LATENTS, draft._key) is None


def test_what_is_published_meanwhile_is_kept(store):
    draft = begun(store, OTHER)
    fill(draft)
    (item,) = [item for item in garbage(store, timedelta(0)) if item.what == "draft"]
    artifact = draft.publish(FACTS, store.provenance(1))
    assert not remove(store, item)
    artifact.verify()


def test_a_bucket_is_cleaned_likewise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving() as (server, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        store = Store(f"s3://{BUCKET}/x")
        make(store)
        left(store)
        found = list(garbage(store, timedelta(0)))
        assert [item.what for item in found] == ["draft", "scratch"]
        assert all(remove(store, item) for item in found)
        store.need(Kind.LATENTS).verify()
        assert len({name.split("/")[3] for name in server.objects if "artifacts" in name}) == 1


def test_the_command_says_what_it_does_and_a_dry_run_does_nothing(tmp_path, store):
    make(store)
    path = left(store)
    sdquant = Sdquant(tmp_path / "store")
    assert sdquant("gc").stdout == "removed 0 files, 0 bytes\n"
    grow_old(tmp_path / "store")
    before = sorted(tmp_path.rglob("*"))
    planned = sdquant("gc", "--dry-run").stdout.splitlines()
    assert planned[0] == f"would remove draft {path}, 20 days old"
    assert sorted(tmp_path.rglob("*")) == before
    done = sdquant("gc", "--older-than", "2h").stdout.splitlines()
    assert done == [line.replace("would remove", "removed") for line in planned]
    assert sdquant("gc", "--older-than", "30m").stdout == "removed 0 files, 0 bytes\n"
    wrong = sdquant("gc", "--older-than", "two weeks", code=2).stderr
    assert wrong.startswith(
        "sdquant: --older-than two weeks: expected a whole number of days, hours or minutes"
    )
