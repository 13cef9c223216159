"""Every kind of artifact has the key and the content that it had: see `tests/golden.py`.

Lineages (spec, layout, and those of the inputs) are compared on any machine, keys wherever the inputs have
the recorded digests. Digests are compared on a machine with the fingerprint of the recording; elsewhere,
where last digits differ, arrays by their counts, means and deviations.
"""

import json

import pytest

from sdquant_cli.types import Kind
from tests import golden

RECORDED = json.loads(golden.GOLDEN.read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return golden.make(tmp_path_factory.mktemp("golden"), golden.COMMANDS)


def test_the_recording_has_every_kind():
    assert {entry["kind"] for entry in RECORDED["quick"].values()} == set(Kind)


def test_artifacts_are_what_they_were(made):
    assert_as_recorded(made, RECORDED["quick"])


@pytest.mark.full_size
def test_artifacts_of_slow_settings_are_what_they_were(tmp_path):
    assert_as_recorded(golden.make(tmp_path, golden.SLOW_COMMANDS), RECORDED["slow"])


def assert_as_recorded(made, expected):
    """Assert that artifacts are those recorded."""
    same_machine = golden.fingerprint() == RECORDED["fingerprint"]
    assert named(made) == named(expected)
    for lineage, entry in expected.items():
        name = f"{entry['kind']} of `{entry['command']}`"
        now = made[lineage]
        if now["inputs"] == entry["inputs"]:
            assert now["key"] == entry["key"], name
        if same_machine:
            assert now == entry, name
        assert now["arrays"].keys() == entry["arrays"].keys(), name
        for array, statistics in entry["arrays"].items():
            scale = max(abs(statistics[1]), statistics[2])
            close = pytest.approx(statistics[1:], rel=0.05, abs=0.05 * scale)
            assert now["arrays"][array][0] == statistics[0], f"{name}: {array}"
            assert now["arrays"][array][1:] == close, f"{name}: {array}"


def named(artifacts):
    """Return lineages with what made each, so that a difference tells which command it is of."""
    return {lineage: (entry["kind"], entry["command"]) for lineage, entry in artifacts.items()}
