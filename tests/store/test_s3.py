"""The store in a bucket: the same artifacts, two writers at once, and a server that refuses."""

import random
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest

from sdquant_cli.errors import DamagedArtifact, EnvironmentProblem, UsageProblem
from sdquant_cli.store import Draft, Store, objects
from sdquant_cli.types import Kind
from tests.conftest import Sdquant
from tests.store.making import ARRAYS, DATA, FACTS, SPEC, UNITS, Heard, begun, fill, make
from tests.store.s3 import BUCKET, nothing, serving

URL = f"s3://{BUCKET}/some/prefix"


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # scratch of a bucket's artifacts lies where the command runs
    quick = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2), "base": 2}
    monkeypatch.setattr(objects, "RETRIES", {**objects.RETRIES, "max_retries": 3, "backoff": quick})
    monkeypatch.setattr(objects, "CONFLICT_WAITS", (0.0, 0.0, 0.0))
    with serving() as (server, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield server


def other_machine(monkeypatch, tmp_path) -> Store:
    """A store whose drafts no lock of the first process holds back."""
    folder = tmp_path / "other"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Store(URL, Heard())


def test_a_bucket_holds_what_a_folder_holds(server, tmp_path):
    artifact = make(Store(URL))
    local = make(Store(str(tmp_path / "store")))
    assert artifact.ref == local.ref
    assert np.array_equal(Store(URL).need(Kind.LATENTS).read("x"), DATA["x"])
    assert isinstance(Store(URL).begin(SPEC, {}, ARRAYS, UNITS), type(artifact))
    names = {name.removeprefix("some/prefix/") for name in server.objects}
    files = {
        p.relative_to(tmp_path / "store").as_posix() for p in (tmp_path / "store").rglob("*") if p.is_file()
    }
    assert names == files


def test_the_commands_work_on_a_bucket(server):
    artifact = make(Store(URL))
    sdquant = Sdquant(URL)
    assert f"latents/{artifact.key}  latest" in sdquant("ls").stdout
    assert "is intact" in sdquant("verify").stdout
    sdquant("tag", artifact.key, "mine")
    sdquant("rm", "latents/mine")
    assert not [name for name in server.objects if "artifacts" in name]


@pytest.mark.parametrize("moment", ["between shards", "before the receipt", "before the manifest"])
def test_two_writers_of_other_bytes_publish_one_artifact(server, monkeypatch, tmp_path, moment):
    """The second writer does all its work at one moment of the first one's."""
    first = Store(URL, Heard())
    draft = begun(first)
    second = other_machine(monkeypatch, tmp_path)
    began = second.begin(SPEC, {}, ARRAYS, UNITS)
    assert isinstance(began, Draft)
    ends = {
        "between shards": "row/c/0",
        "before the receipt": "units/000000.json",
        "before the manifest": "manifest.json",
    }
    waiting = [True]
    create = draft._objects.create

    def meanwhile(path, data, **options):
        if path.endswith(ends[moment]) and waiting:
            waiting.clear()
            for unit in began.missing():
                start, stop = began.rows(unit, "x")
                began.write(unit, {"x": DATA["x"][start:stop] + 1, "row": DATA["row"][start:stop]}, {"n": 1})
            began.publish(FACTS, second.provenance(1)).verify()
        return create(path, data, **options)

    monkeypatch.setattr(draft._objects, "create", meanwhile)
    fill(draft)
    ours = draft.publish(FACTS, first.provenance(1))
    assert waiting == []
    ours.verify()
    published = Store(URL).find(Kind.LATENTS, ours.key)
    published.verify()
    assert published.ref == ours.ref
    mixed = published.read("x")
    for unit in range(UNITS):  # each unit is one writer's, whole
        start, stop = draft.rows(unit, "x")
        ours_or_theirs = [np.array_equal(mixed[start:stop], DATA["x"][start:stop] + n) for n in (0, 1)]
        assert sum(ours_or_theirs) == 1
    told = [*first.events.warnings, *second.events.warnings]
    if moment != "before the manifest":
        assert any("is stored already, with other bytes than computed here" in line for line in told)


def test_a_second_writer_goes_on_from_the_units_of_the_first(server, monkeypatch, tmp_path):
    fill(begun(Store(URL)), [0, 2])
    draft = begun(other_machine(monkeypatch, tmp_path))
    assert draft.missing() == [1]
    fill(draft)
    draft.publish(FACTS, Store(URL).provenance(1)).verify()


def test_a_lost_answer_is_no_conflict(server):
    """The server has stored the object, the answer is lost, and the repeated request says 412."""
    lost = set()

    def lose(method, key):
        if method == "PUT" and key not in lost:
            lost.add(key)
            return 0
        return None

    server.after = lose
    heard = Heard()
    artifact = make(Store(URL, heard))
    artifact.verify()
    assert len(lost) > 10
    assert heard.warnings == []
    assert len([name for name in server.objects if "/tags/" in name]) == 1


def test_409_with_nothing_stored_is_tried_again(server):
    refused = set()

    def conflict(method, key):
        if method == "PUT" and key not in refused:
            refused.add(key)
            return 409
        return None

    server.before = conflict
    make(Store(URL)).verify()
    assert len(refused) > 10
    server.before = lambda method, key: 409 if method == "PUT" else None
    with pytest.raises(EnvironmentProblem, match="conflict"):
        begun(Store(URL), SPEC.model_copy(update={"seed": 1}))


@pytest.mark.parametrize("status", [0, 401, 403, 500, 503])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_what_the_server_refuses_is_one_line_and_5(server, method, status):
    artifact = make(Store(URL))
    opened = Store(URL)
    sdquant = Sdquant(URL)
    server.before = lambda m, key: status if m == method else None
    if method == "GET":
        for words in (("ls",), ("verify",), ("show", "latents"), ("rm", "latents")):
            said = sdquant(*words, code=5).stderr.splitlines()
            assert len(said) == 1
            assert said[0].startswith(f"sdquant: {URL}")
        with pytest.raises((EnvironmentProblem, DamagedArtifact)):
            artifact.read("x")
        with pytest.raises(EnvironmentProblem):
            Store(URL)
    else:
        with pytest.raises(EnvironmentProblem, match=URL):
            opened.begin(SPEC.model_copy(update={"seed": 1}), {}, ARRAYS, UNITS)


def test_a_server_that_throttles_cuts_and_loses_answers(server, monkeypatch):
    """10% of requests 503, 5% cut off, 5% done with a lost answer: the same bytes."""
    monkeypatch.setattr(objects, "RETRIES", {**objects.RETRIES, "max_retries": 20})
    chance = random.Random(0)
    counts = Counter()

    def before(method, key):
        drawn = chance.random()
        status = 503 if drawn < 0.1 else 0 if drawn < 0.15 else None
        counts["before", status] += 1
        return status

    def after(method, key):
        lost = chance.random() < 0.05
        counts["lost"] += lost
        return 0 if lost else None

    server.before, server.after = before, after
    artifacts = []
    for seed in range(4):
        artifacts.append(make(Store(URL), SPEC.model_copy(update={"seed": seed})))
    assert counts["before", 503] > 10
    assert counts["before", 0] > 5
    assert counts["lost"] > 5
    server.before = server.after = nothing
    for artifact in artifacts:
        artifact.verify()
    assert len({artifact.ref.digest for artifact in artifacts}) == 1
    assert not [name for name in server.objects if "/leases/" in name]


def test_a_server_that_overwrites_is_refused(server):
    """As S3-compatible servers of before conditional writes do."""
    server.overwrites = True
    with pytest.raises(EnvironmentProblem, match="the server overwrites objects that it is asked to create"):
        begun(Store(URL))
    assert not [name for name in server.objects if "artifacts" in name]


def test_credentials_that_expire_end_a_run_that_resumes(server):
    draft = begun(Store(URL))
    fill(draft, [0, 1])
    server.before = lambda method, key: 403
    with pytest.raises(EnvironmentProblem, match=URL):
        fill(draft, [2])
    server.before = nothing
    resumed = begun(Store(URL))
    assert resumed.missing() == [2]


def test_uploads_have_a_checksum(server):
    seen = []
    server.heard = lambda method, headers: seen.append(headers.get("x-amz-checksum-sha256"))
    make(Store(URL))
    assert seen
    assert all(seen)


def test_an_outage_of_some_requests_is_waited_for(server):
    left = [2]

    def outage(method, key):
        if method == "PUT" and left[0]:
            left[0] -= 1
            return 503
        return None

    server.before = outage
    make(Store(URL)).verify()
    assert left == [0]


@pytest.mark.parametrize("url", ["s3:/bucket/x", "s3:bucket", "gs:/b", "file:/x"])
def test_a_url_with_one_slash_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageProblem, match="two slashes"):
        Store(url)
    assert list(tmp_path.iterdir()) == []


def test_a_new_store_by_a_file_url(tmp_path):
    folder = tmp_path / "with space" / "store"
    artifact = make(Store(folder.as_uri()))
    assert Store(str(folder)).need(Kind.LATENTS).ref == artifact.ref


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make(Store("~/store"))
    assert (tmp_path / "store" / "sdquant-store.json").is_file()


@pytest.mark.parametrize("url", ["://", "s3://", "file://", "http://host/x", "nonsense://x"])
def test_what_names_no_place_is_refused(url):
    with pytest.raises(UsageProblem, match=r"expected a folder, or a bucket as in s3://bucket/prefix"):
        Store(url)
