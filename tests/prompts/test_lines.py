"""Text files, one prompt per line."""

import json
import re

import pytest
from hypothesis import given

from sdquant_cli.errors import UsageProblem
from sdquant_cli.prompts.lines import fit_lines, read_lines
from sdquant_cli.prompts.read import read_prompts

from .files import assert_comes_back, lines_only, read, refusal


@given(lines_only)
def test_any_lines_come_back(tmp_path_factory, prompts):
    data = "".join(f"{prompt}\n" for prompt in prompts).encode("utf-8-sig")
    assert_comes_back(data, ".txt", prompts, tmp_path_factory, refusable=False)


def test_nothing_but_line_ends_ends_a_line(tmp_path):
    prompts = ["a\u2028b", "c\x85d", "e\x0cf", "g\x0bh", "i\x1cj"]
    assert read(tmp_path, "a.txt", "\n".join(prompts)) == prompts
    records = "\r\n".join(json.dumps(prompt, ensure_ascii=False) for prompt in prompts)
    assert read(tmp_path, "a.jsonl", records) == prompts
    assert read(tmp_path, "a.csv", "prompt\n" + "\n".join(prompts)) == prompts
    assert read(tmp_path, "a.txt", "a\rb\r\nc\n") == ["a", "b", "c"]


def test_a_line_without_end_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.write(b"x" * (1 << 25))
        file.truncate(1 << 34)  # 16 GB that take no space
    with pytest.raises(UsageProblem, match="line 1 is longer than 16,777,216 characters"):
        read_prompts(path)
    with pytest.raises(UsageProblem, match=r"one document of 17,179,869,184 bytes.*jsonl"):
        read_prompts(path.rename(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.txt", b"", "holds no prompt"),
        ("a.txt", b"\n  \n", "holds no prompt"),
        ("a.txt", b"\x89PNG\0\1", "line 1 is not UTF-8|line 1 is binary"),
        ("a.txt", b"fine\n\xff\xfe broken", "line 2 is not UTF-8.*iconv"),
        ("a.txt", "a star\n".encode("utf-16"), "UTF-16.*iconv -f UTF-16"),
        ("a.txt", "a star\n".encode("utf-16-le"), "line 1 is binary.*iconv -f UTF-16"),
        ("a.txt", b"fine\n" + b"x" * 100_001, "line 2: a prompt of 100,001 characters"),
    ],
)
def test_bad_text_is_named_in_one_line(tmp_path, name, data, says):
    message = refusal(tmp_path, name, data)
    assert re.search(says, message), message


def test_a_column_is_refused(tmp_path):
    assert "--column prompt: not supported for .txt files" in refusal(
        tmp_path, "a.txt", "x\n", column="prompt"
    )


def test_lines_keep_their_ends_and_lose_the_byte_order_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa\r\nb\rc\n\nd".encode())
    assert list(read_lines(path)) == ["a\r\n", "b\r", "c\n", "\n", "d"]


@pytest.mark.parametrize(
    ("prompts", "fit"),
    [
        ([], True),
        (["a star", "a\u2028b"], True),
        (["a star", "\ufeffmarked"], True),
        (["\ufeffmarked"], False),
        (["a\rb"], False),
        (["a star", "a\nb"], False),
        (["a\0b"], False),
    ],
)
def test_prompts_fit_lines_if_they_are_read_as_the_same(prompts, fit):
    assert fit_lines(prompts) is fit
