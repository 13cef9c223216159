"""Folders of pictures: their order, pairs and sizes."""

import numpy as np
import pytest
from PIL import Image

from sdquant_cli.errors import UsageProblem
from sdquant_cli.events import SILENT
from sdquant_cli.pictures import folder as folders
from sdquant_cli.pictures.pairing import check_pictures, paired
from tests.fakes import pictures


def folder(path, names, side=8, flag="--images"):
    """A folder with a picture under each name, grey of its position."""
    path.mkdir()
    for index, name in enumerate(names):
        Image.fromarray(np.full((side, side, 3), index, np.uint8)).save(path / name)
    return folders.open_folder(path, flag)


def names(opened):
    return [file.name for file in opened.files]


def refusal(function, *values) -> str:
    with pytest.raises(UsageProblem) as caught:
        function(*values)
    return str(caught.value)


def test_numbers_in_names_count_as_numbers_and_other_files_are_left_out(tmp_path):
    opened = folder(tmp_path / "a", ["img10.png", "img9.webp", "img2.JPG", "cat.jpeg", ".hidden.png"])
    (tmp_path / "a" / "notes.txt").write_text("a red circle")
    (tmp_path / "a" / "more").mkdir()
    assert names(folders.open_folder(tmp_path / "a", "--images")) == names(opened)
    assert names(opened) == ["cat.jpeg", "img2.JPG", "img9.webp", "img10.png"]
    assert (opened.count, opened.size) == (4, (8, 8))
    assert opened.pictures(1, 9).shape == (3, 8, 8, 3)
    assert opened.picture(3).max() == 0  # img10.png was the first


def test_a_folder_that_is_missing_empty_or_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd" / "x.png").mkdir(parents=True)
    for name, says in (
        ("absent", "no such folder"),
        ("file", "is a file, expected a folder"),
        ("empty", "holds no pictures (.png, .jpg, .jpeg, .webp)"),
        ("odd", "is a folder, expected a file"),
    ):
        assert says in refusal(folders.open_folder, tmp_path / name, "--against")


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("out/a", True),
        ("./fp", True),
        ("/absent", True),
        ("..", True),
        ("here", True),
        ("absent", False),
        ("", False),
        ("images/latest", False),
        ("images/drawn", True),
        ("images", True),
    ],
)
def test_a_path_or_what_exists_is_a_folder(tmp_path, monkeypatch, name, answer):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "images" / "drawn").mkdir(parents=True)
    assert folders.is_folder(name) is answer


def test_pictures_of_the_same_name_are_pairs_whatever_their_endings(tmp_path):
    ours = folder(tmp_path / "a", ["a.png", "b.png", "c.png"])
    theirs = folder(tmp_path / "b", ["c.png", "a.webp", "b.jpg"])
    assert list(map(names, paired(ours, theirs))) == [
        ["a.png", "b.png", "c.png"],
        ["a.webp", "b.jpg", "c.png"],
    ]


def test_without_a_shared_name_the_order_decides(tmp_path):
    ours = folder(tmp_path / "a", ["0.png", "2.png", "10.png"])
    theirs = folder(tmp_path / "b", ["00000.png", "00001.png", "00002.png"])
    first, second = paired(ours, theirs)
    assert names(first) == ["0.png", "2.png", "10.png"]
    assert names(second) == ["00000.png", "00001.png", "00002.png"]


def test_unequal_numbers_and_names_are_refused(tmp_path):
    ours = folder(tmp_path / "a", ["0.png", "1.png", "2.png"])
    fewer = folder(tmp_path / "b", ["0.png", "2.png"], flag="--against")
    told = refusal(paired, ours, fewer)
    assert told.startswith(f"--against {tmp_path / 'b'}: holds 2 pictures, expected 3 as --images {tmp_path}")
    assert f"({tmp_path / 'a' / '1.png'} has no counterpart)" in told
    strange = folder(tmp_path / "c", ["x.png", "y.png"], flag="--against")
    assert "counterpart" not in refusal(paired, ours, strange)
    other = folder(tmp_path / "d", ["0.png", "1.png", "3.png"], flag="--against")
    told = refusal(paired, ours, other)
    assert "shares some names" in told
    assert str(tmp_path / "a" / "2.png") in told
    twice = folder(tmp_path / "e", ["0.png", "0.jpg", "1.png"])
    assert "0.png: has the name of 0.jpg" in refusal(paired, ours, twice)


def test_sizes_are_equal_within_and_between_folders(tmp_path):
    ours = folder(tmp_path / "a", ["0.png", "1.png"])
    larger = folder(tmp_path / "b", ["0.png", "1.png"], side=16, flag="--against")
    told = refusal(check_pictures, ours, larger, SILENT)
    assert told.startswith(f"--against {tmp_path / 'b' / '0.png'}: is 16 x 16 pixels, expected 8 x 8 as --im")
    Image.fromarray(pictures(1, side=24)[0, :8]).save(tmp_path / "a" / "1.png")
    told = refusal(check_pictures, ours, ours, SILENT)
    assert told == f"--images {tmp_path / 'a' / '1.png'}: is 24 x 8 pixels, expected 8 x 8 pixels as 0.png"
