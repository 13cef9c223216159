"""Objects of a folder: created once, listed by path, removed without following links."""

import pytest

from sdquant_cli.errors import EnvironmentProblem, UsageProblem
from sdquant_cli.store.objects import Objects, plain_errors


@pytest.fixture
def objects(tmp_path) -> Objects:
    return Objects(str(tmp_path / "store"))


def test_an_object_is_created_once(objects):
    assert objects.create("a/b/one", b"first")
    assert not objects.create("a/b/one", b"second")
    assert objects.read("a/b/one") == b"first"
    assert objects.read("a/b/two") is None
    assert objects.sizes("a") == {"a/b/one": 5}


def test_objects_and_folders_are_listed_below_a_prefix(objects):
    for path in ("a/x/1", "a/y/2", "b/z/3", "a/file"):
        objects.create(path, b"1")
    assert objects.folders("a") == ["x", "y"]
    assert objects.folders("c") == []
    assert set(objects.sizes("a")) == {"a/x/1", "a/y/2", "a/file"}
    assert objects.each(str.upper, ["p", "q"]) == ["P", "Q"]


def test_what_is_removed_is_gone_and_what_links_name_stays(objects, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("kept")
    for path in ("a/x/1", "a/x/2", "a/y/1"):
        objects.create(path, b"1")
    (objects.local / "a/x/link").symlink_to(outside)
    objects.delete(["a/x/1", "a/x/never"])
    assert set(objects.sizes("a/x")) == {"a/x/2", "a/x/link"}
    objects.remove_folder("a/x", "2")
    assert objects.folders("a") == ["y"]
    assert outside.read_text() == "kept"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("No space left on device (os error 28)"), "there: the disk is full; stored data is intact"),
        (OSError("first\nsecond"), "there: first; stored data is intact"),
        (OSError(), "there: OSError; stored data is intact"),
    ],
)
def test_an_error_of_the_system_is_one_line(error, line):
    with pytest.raises(EnvironmentProblem) as caught, plain_errors("there"):
        raise error
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageProblem, match="file is a file, a store is a folder"):
        Objects(str(tmp_path / "file"))
