"""Parquet files."""

import re
import subprocess
import sys

import pyarrow
import pytest
from hypothesis import given

from sdquant_cli.errors import UsageProblem
from sdquant_cli.prompts.parquet import BATCH_ROWS, read_parquet
from sdquant_cli.prompts.read import read_prompts

from .files import arrow, assert_comes_back, prompt_lists, refusal


@given(prompt_lists)
def test_any_prompts_come_back_from_parquet(tmp_path_factory, prompts):
    path = arrow(
        tmp_path_factory.getbasetemp() / "written.parquet",
        id=pyarrow.array(range(len(prompts))),
        Caption=pyarrow.array(prompts, pyarrow.string()),
    )
    assert_comes_back(path.read_bytes(), ".parquet", prompts, tmp_path_factory, refusable=False)


def test_parquet_columns_of_every_kind(tmp_path):
    path = tmp_path / "a.parquet"
    arrow(path, caption=[["a circle", "a round thing"], [], None, ["a star", None]], id=[1, 2, 3, 4])
    file = read_prompts(path)
    assert (file.prompts, file.blank) == (("a circle", "a round thing", "a star"), 2)
    arrow(path, Prompt=pyarrow.array(["a circle", None, "a star"]).dictionary_encode())
    file = read_prompts(path)
    assert (file.prompts, file.blank) == (("a circle", "a star"), 1)
    arrow(path, TEXT=pyarrow.array(["None", "a star"], pyarrow.large_string()), URL=["u", "v"])
    assert read_prompts(path).prompts == ("None", "a star")
    assert read_prompts(path, column="url").prompts == ("u", "v")
    for values in ([1, 2], [b"x", b"y"], [{"a": "x"}], [[["x"]]]):
        arrow(path, prompt=values)
        with pytest.raises(UsageProblem, match="column prompt: expected text, found"):
            read_prompts(path)
    arrow(path, title=["x"], author=["y"])
    with pytest.raises(UsageProblem, match="found title, author; name one with --column"):
        read_prompts(path)


def test_a_limit_reads_few_rows_of_parquet(tmp_path):
    """A small file may hold gigabytes of text."""
    path = tmp_path / "a.parquet"
    long, rows = "a star " * 10_000, 100_000
    dictionary = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), [long])
    arrow(path, prompt=dictionary)
    assert path.stat().st_size < 1e6
    code = (
        "import sys, resource; from pathlib import Path; "
        "from sdquant_cli.prompts import read_prompts; import pyarrow.parquet; "
        f"peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak(); "
        f"assert read_prompts(Path({str(path)!r}), 2).prompts == ({long.strip()!r},) * 2; "
        "print(peak() - before)"
    )
    script = tmp_path / "peak.py"
    script.write_text(code.replace("; ", "\n"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 300e6


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.parquet", b"not parquet", "cannot be read as parquet"),
        ("a.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1", "cannot be read as parquet"),
    ],
)
def test_bad_parquet_is_named_in_one_line(tmp_path, name, data, says):
    message = refusal(tmp_path, name, data)
    assert re.search(says, message), message


def test_rows_are_numbered_across_batches(tmp_path):
    path = arrow(tmp_path / "a.parquet", prompt=[str(i) for i in range(BATCH_ROWS + 2)])
    entries = list(read_parquet(path, None))
    assert entries[0] == ("row 1", "0")
    assert entries[-1] == (f"row {BATCH_ROWS + 2}", str(BATCH_ROWS + 1))
