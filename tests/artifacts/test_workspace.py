"""A command's workspace: models opened once, artifacts by kind, one way to make them."""

from collections import Counter

import pytest

from sdquant_cli.artifacts import workspace as module
from sdquant_cli.artifacts.images import Images
from sdquant_cli.artifacts.metrics import Metrics
from sdquant_cli.artifacts.prompts import Prompts
from sdquant_cli.artifacts.workspace import Blueprint, Workspace
from sdquant_cli.errors import MissingArtifact, UsageProblem
from sdquant_cli.events import Events
from sdquant_cli.manifests import PromptsFacts, PromptsSpec
from sdquant_cli.models import load
from sdquant_cli.store import Absent, ArraySpec, Store
from tests.conftest import PROMPTS
from tests.fakes import pictures, publish_pictures

TRAIN = PROMPTS / "shapes-train.txt"
BLUEPRINT = Blueprint(PromptsSpec(count=1, sha256="0"), {}, {"text": ArraySpec((2,), "uint8", ("byte",))})


class Notes(Events):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(Store(str(tmp_path / "store")), Notes())


def fill(draft):
    draft.write(0, {"text": [1, 2]})
    return PromptsFacts(source="a", prompts=1, unique=1)


def test_an_artifact_is_made_once_and_tagged_each_time(workspace):
    made = workspace.produce(Prompts, BLUEPRINT, fill, ("first",))
    again = workspace.produce(Prompts, BLUEPRINT, None, ("second",))  # nothing to fill
    assert made.ref == again.ref
    assert isinstance(again, Prompts)
    assert workspace.events.notes == [f"prompts/{made.key} is up to date"]
    for tag in ("first", "second"):
        assert workspace.need(Prompts, tag).ref == made.ref


def test_what_is_there_already_can_be_passed_over_in_silence(workspace):
    for _ in range(2):
        workspace.produce(Prompts, BLUEPRINT, fill, quiet=True)
    assert workspace.events.notes == []


def test_nothing_is_begun_in_a_workspace_to_be_read(workspace):
    with pytest.raises(Absent):
        workspace.read_only().produce(Prompts, BLUEPRINT, fill)


def test_an_artifact_of_another_kind_is_refused(workspace):
    images = publish_pictures(workspace.store, pictures(2))
    assert workspace.resolve(Images, f"images/{images.key}", "--images").ref == images.ref
    with pytest.raises(UsageProblem, match=f"--names images/{images.key}: is images, expected metrics"):
        workspace.resolve(Metrics, f"images/{images.key}", "--names")
    with pytest.raises(MissingArtifact, match="sdquant evaluate"):
        workspace.need(Metrics)


def test_a_device_that_is_not_there_is_refused_before_anything_is_stored(sdquant, tiny):
    absent = ("--device", "cuda:7")
    sample = ("sample", "--prompts", TRAIN, "--limit", 1, "--steps", 2, "--model", tiny("sd-v1-4/two-blocks"))
    assert "--device cuda:7" in sdquant(*sample, *absent, code=5).stderr
    assert sdquant.opened().artifacts() == []
    sdquant(*sample)
    kinds = {artifact.kind for artifact in sdquant.opened().artifacts()}
    for words in (("sensitivity",), ("calibrate", "--method", "rtn")):
        assert "--device cuda:7" in sdquant(*words, *absent, code=5).stderr
    assert {artifact.kind for artifact in sdquant.opened().artifacts()} == kinds
    sdquant("calibrate", "--method", "rtn", "--dry-run", *absent)  # which computes nothing


@pytest.fixture
def openings(monkeypatch):
    """How often models were opened, and their files hashed."""
    counts = Counter()

    def counting(name, function):
        def count(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return count

    monkeypatch.setattr(module, "find_model", counting("opened", load.find_model))
    monkeypatch.setattr(load, "digest_of", counting("hashed", load.digest_of))
    return counts


def test_each_command_opens_and_hashes_the_model_once(sdquant, tiny, openings):
    model = tiny("sd-v1-4/two-blocks")
    for words in (
        ("sample", "--prompts", TRAIN, "--limit", 2, "--steps", 2, "--model", model),
        ("precalc-time",),
        ("sensitivity",),
        ("calibrate", "--method", "q-diffusion", "--iterations", 1),
        ("generate", "--prompts", TRAIN, "--limit", 1),
        ("evaluate", "--drift", "--drift-prompts", 1),
    ):
        openings.clear()
        sdquant(*words)
        assert openings == {"opened": 1, "hashed": 1}, words
