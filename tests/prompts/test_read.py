"""The readers of all formats, limits, shuffles and what is opened at all."""

import json
import os
import re
import socket
from pathlib import Path

import pytest

from sdquant_cli.errors import UsageProblem
from sdquant_cli.prompts.read import read_prompts
from tests.conftest import PROMPTS as EXAMPLES

from .files import arrow, refusal, table

PROMPTS = ["a red circle", "a blue star, big", "a red circle"]


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"prompts{suffix}"
    if suffix == ".parquet":
        return arrow(path, text=PROMPTS, n=[1, 1, 1])
    data = {
        ".txt": "\n".join([PROMPTS[0], "", "  ", *PROMPTS[1:]]).encode("utf-8-sig"),
        ".csv": table([("id", "caption"), *enumerate(PROMPTS)]),
        ".tsv": table([("id", "caption"), *enumerate(PROMPTS)], "\t"),
        ".jsonl": "\n".join(
            [json.dumps(PROMPTS[0]), *(json.dumps({"prompt": p}) for p in PROMPTS[1:])]
        ).encode(),
        ".json": json.dumps(
            {"images": [], "annotations": [{"caption": p, "id": 1} for p in PROMPTS]}
        ).encode(),
    }
    path.write_bytes(data[suffix])
    return path


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".json"])
def test_every_format_gives_the_same_prompts(tmp_path, suffix):
    file = read_prompts(written(tmp_path, suffix))
    assert list(file.prompts) == PROMPTS
    assert file.duplicates == 1
    assert file.blank == (2 if suffix == ".txt" else 0)
    assert read_prompts(written(tmp_path, suffix), limit=2).prompts == tuple(PROMPTS[:2])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.txt")), ids=lambda path: path.stem)
def test_example_files_hold_a_prompt_a_line(path):
    file = read_prompts(path)
    assert list(file.prompts) == path.read_text(encoding="utf-8").split("\n")[:-1]
    assert file.blank == 0


def test_a_limit_reads_no_further_and_counts_what_was_skipped(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\ntwo\ntwo\n\n\xff\n")
    file = read_prompts(path, limit=3)
    assert (file.prompts, file.blank, file.duplicates) == (("one", "two", "two"), 1, 1)
    with pytest.raises(UsageProblem, match="line 6 is not UTF-8"):
        read_prompts(path, limit=4)


def test_a_shuffle_is_a_permutation_that_never_changes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{i}\n\n" for i in range(10)))
    file = read_prompts(path, shuffle=0)
    assert file.blank == 10
    assert list(file.prompts) == list("5708369214")
    assert read_prompts(path, limit=3, shuffle=0).prompts == file.prompts[:3]
    assert read_prompts(path, shuffle=1).prompts != file.prompts
    assert sorted(read_prompts(path, shuffle=1).prompts) == sorted(file.prompts)


def test_repeats_are_counted_among_what_a_shuffle_leaves(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("same\n" * 5 + "other\n" * 5)
    for seed in range(4):
        file = read_prompts(path, limit=4, shuffle=seed)
        assert file.duplicates == 4 - len(set(file.prompts))


def test_only_regular_files_are_opened(tmp_path):
    with pytest.raises(UsageProblem, match="no such file"):
        read_prompts(tmp_path / "absent.txt")
    with pytest.raises(UsageProblem, match="is a folder"):
        read_prompts(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.txt"))
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    for name in ("pipe.txt", "s.txt", "device.txt"):
        with pytest.raises(UsageProblem, match="expected a regular file"):
            read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.docx", b"x", "expected one of .txt"),
        ("a", b"x", "no suffix"),
    ],
)
def test_other_suffixes_are_refused(tmp_path, name, data, says):
    message = refusal(tmp_path, name, data)
    assert re.search(says, message), message
