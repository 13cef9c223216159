import hashlib
from dataclasses import replace

import pytest

from sdquant_cli.errors import EnvironmentProblem, UsageProblem
from sdquant_cli.events import SILENT
from sdquant_cli.metrics.catalog import CATALOG
from sdquant_cli.metrics.weights import WEIGHT_FILES, FileState, Weights, default_folder

NAME = "alexnet-owt-7be5be79.pth"


def publish(monkeypatch, tmp_path, content: bytes, arrives: bytes | None = None):
    """Let a weight file be these bytes, to be had from a file URL."""
    source = tmp_path / "published"
    source.write_bytes(content if arrives is None else arrives)
    file = replace(WEIGHT_FILES[NAME], sha256=hashlib.sha256(content).hexdigest(), url=source.as_uri())
    monkeypatch.setitem(WEIGHT_FILES, NAME, file)


def test_every_file_a_metric_needs_is_known_and_every_known_file_is_needed():
    assert {file for metric in CATALOG.values() for file in metric.files} == set(WEIGHT_FILES)
    assert all(len(file.sha256) == 64 for file in WEIGHT_FILES.values())


def test_names_with_a_hash_in_them_agree_with_the_digest():
    for name, file in WEIGHT_FILES.items():
        prefix = name.rpartition("-")[2].partition(".")[0]
        if len(prefix) == 8 and set(prefix) <= set("0123456789abcdef"):
            assert file.sha256.startswith(prefix)


def test_missing_intact_truncated_and_foreign_files(monkeypatch, tmp_path):
    publish(monkeypatch, tmp_path, b"weights")
    folder = tmp_path / "weights"
    assert Weights(folder).state(NAME) is FileState.MISSING
    assert Weights(folder).missing([NAME]) == [NAME]
    folder.mkdir()
    for content, condition in ((b"weights", "intact"), (b"weigh", "wrong"), (b"other", "wrong")):
        (folder / NAME).write_bytes(content)
        weights = Weights(folder)
        assert weights.state(NAME) == condition
        if condition == "wrong":
            with pytest.raises(EnvironmentProblem, match=rf"{NAME}.*sha256 is .*expected .*doctor"):
                weights.missing([NAME])


def test_a_download_is_checked_before_it_is_kept(monkeypatch, tmp_path):
    publish(monkeypatch, tmp_path, b"weights")
    weights = Weights(tmp_path / "weights")
    weights.download([NAME], SILENT)
    assert weights.path(NAME).read_bytes() == b"weights"
    weights.path(NAME).unlink()
    publish(monkeypatch, tmp_path, b"weights", arrives=b"an error page")
    with pytest.raises(EnvironmentProblem, match="nothing was kept"):
        Weights(tmp_path / "weights").download([NAME], SILENT)
    assert list((tmp_path / "weights").iterdir()) == []


def test_an_address_that_does_not_answer_is_one_line(monkeypatch, tmp_path):
    publish(monkeypatch, tmp_path, b"weights")
    (tmp_path / "published").unlink()
    with pytest.raises(EnvironmentProblem, match="cannot be fetched"):
        Weights(tmp_path / "weights").download([NAME], SILENT)


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Weights().folder == default_folder() == tmp_path / "sdquant" / "weights"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageProblem, match="is a file"):
        Weights(tmp_path / "file")
