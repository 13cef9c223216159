"""Prompt files for the tests of all readers."""

import csv
import io
from pathlib import Path

import pyarrow
import pytest
from hypothesis import strategies as st
from pyarrow import parquet

from sdquant_cli.errors import UsageProblem
from sdquant_cli.prompts import read_prompts


def table(rows, separator=",", **options) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, **options).writerows(rows)
    return text.getvalue().encode()


def arrow(path: Path, **columns) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


def read(folder: Path, name: str, data: bytes | str, **how) -> list[str]:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(read_prompts(path, **how).prompts)


def refusal(folder: Path, name: str, data: bytes | str, **how) -> str:
    with pytest.raises(UsageProblem) as caught:
        read(folder, name, data, **how)
    message = str(caught.value)
    assert message.startswith(f"--prompts {folder / name}: ")
    assert "\n" not in message
    assert len(message) < 700
    return message


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
# mostly what separates, encloses and ends
awkward = st.text(st.sampled_from(list("ab ,;|\t\"'\n\r\\\u2028\x85\x0b\x0c\ufeff")), max_size=8)
prompt_lists = st.lists(text | awkward | st.sampled_from(["null", "NA", "prompt", "id,prompt"]), max_size=6)
lines_only = prompt_lists.map(lambda prompts: [" ".join(p.split("\n")).replace("\r", " ") for p in prompts])


def assert_comes_back(data: bytes, suffix: str, prompts, tmp_path_factory, *, refusable: bool) -> None:
    """Assert that the file holds these prompts, stripped and without blank ones, or is refused."""
    path = tmp_path_factory.getbasetemp() / f"property{suffix}"
    path.write_bytes(data)
    expected = [prompt.strip() for prompt in prompts if prompt.strip()]
    try:
        prompts = list(read_prompts(path).prompts)
    except UsageProblem as problem:
        message = str(problem)
    else:
        assert prompts == expected
        return
    assert "\n" not in message
    assert refusable or (not expected and "holds no prompt" in message), message
