import csv
import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from sdquant_cli.errors import UsageProblem
from sdquant_cli.prompts import read_prompts
from tests.conftest import PROMPTS as EXAMPLES

PROMPTS = ["a red circle", "a blue star, big", "a red circle"]
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def table(rows, separator=",", **options) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, **options).writerows(rows)
    return text.getvalue().encode()


def arrow(path: Path, **columns) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


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


# ------------------------------------------------------------------------------ all formats


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


# ----------------------------------------------------------------------------- properties


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
# mostly what separates, encloses and ends
awkward = st.text(st.sampled_from(list("ab ,;|\t\"'\n\r\\\u2028\x85\x0b\x0c\ufeff")), max_size=8)
prompt_lists = st.lists(text | awkward | st.sampled_from(["null", "NA", "prompt", "id,prompt"]), max_size=6)
lines_only = prompt_lists.map(lambda prompts: [" ".join(p.split("\n")).replace("\r", " ") for p in prompts])


def comes_back(data: bytes, suffix: str, prompts, tmp_path_factory, *, refusable: bool) -> None:
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


@given(lines_only)
def test_any_lines_come_back(tmp_path_factory, prompts):
    data = "".join(f"{prompt}\n" for prompt in prompts).encode("utf-8-sig")
    comes_back(data, ".txt", prompts, tmp_path_factory, refusable=False)


@given(prompt_lists, st.booleans())
def test_any_prompts_come_back_from_json_lines(tmp_path_factory, prompts, escaped):
    lines = [json.dumps({"id": 1, "prompt": prompt}, ensure_ascii=escaped) + "\n" for prompt in prompts]
    comes_back("".join(lines).encode(), ".jsonl", prompts, tmp_path_factory, refusable=False)


@given(prompt_lists, st.booleans(), st.sampled_from([None, 1]))
def test_any_prompts_come_back_from_json(tmp_path_factory, prompts, escaped, indent):
    document = {"annotations": [{"image_id": 1, "caption": prompt} for prompt in prompts]}
    for shape in (document, prompts, {"prompts": prompts}):
        data = json.dumps(shape, ensure_ascii=escaped, indent=indent).encode()
        comes_back(data, ".json", prompts, tmp_path_factory, refusable=False)


@given(prompt_lists)
def test_any_prompts_come_back_from_parquet(tmp_path_factory, prompts):
    path = arrow(
        tmp_path_factory.getbasetemp() / "written.parquet",
        id=pyarrow.array(range(len(prompts))),
        Caption=pyarrow.array(prompts, pyarrow.string()),
    )
    comes_back(path.read_bytes(), ".parquet", prompts, tmp_path_factory, refusable=False)


@given(
    prompt_lists,
    st.sampled_from([["prompt"], ["id", "prompt"], ["Prompt", "note"], ["id", "text", "note"]]),
    st.sampled_from([",", ";", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\r\n", "\n"]),
)
def test_any_prompts_come_back_from_csv(tmp_path_factory, prompts, names, separator, quoting, end):
    separator = "," if len(names) == 1 else separator
    if end == "\n":  # before Python 3.13 the writer does not quote "\r" then
        prompts = [prompt.replace("\r", " ") for prompt in prompts]
    columns = {"id": 7, "note": ' a "note", or;so'}
    rows = [[columns.get(name, prompt) for name in names] for prompt in prompts]
    data = table([names, *rows], separator, quoting=quoting, lineterminator=end)
    # white space before a quotation mark is what hand-written files have by mistake
    refusable = any(prompt[:1].isspace() and prompt.lstrip().startswith('"') for prompt in prompts)
    comes_back(data, ".csv", prompts, tmp_path_factory, refusable=refusable)


@given(
    prompt_lists,
    st.sampled_from(list(SEPARATORS)),
    st.sampled_from(["Prompt", "a star", "a star; big", "a star, big", '"a" star', "a\tstar", "a\nstar"]),
)
def test_prompts_of_one_column_come_back_or_are_refused(tmp_path_factory, prompts, suffix, first):
    data = table([[first], *([prompt] for prompt in prompts)], SEPARATORS[suffix])
    prompts = prompts if first == "Prompt" else [first, *prompts]
    comes_back(data, suffix, prompts, tmp_path_factory, refusable=True)


@given(prompt_lists, st.sampled_from([["id", "prompt"], ["Prompt", "note"], ["id", "text", "note"]]))
def test_prompts_between_tabs_come_back_or_are_refused(tmp_path_factory, prompts, names):
    columns = {"id": 7, "note": "plain"}
    rows = [[columns.get(name, prompt) for name in names] for prompt in prompts]
    comes_back(table([names, *rows], "\t"), ".tsv", prompts, tmp_path_factory, refusable=True)


@given(lines_only, st.booleans())
def test_unquoted_prompts_between_tabs_come_back_or_are_refused(tmp_path_factory, prompts, header):
    """Quotation marks are text here; only a file that looks as if it doubled them may be read otherwise."""
    prompts = [re.sub('"+', '"', prompt.replace("\t", " ")) for prompt in prompts]
    head = "prompt\tnote\n" if header else "Prompt\n"
    rest = "\tplain\n" if header else "\n"
    data = (head + "".join(prompt + rest for prompt in prompts)).encode()
    comes_back(data, ".tsv", prompts, tmp_path_factory, refusable=True)


# --------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("name", "data", "prompts"),
    [
        # one column: the line is the prompt
        ("a.csv", "prompt\na circle, big, bold\na star; small\n", ["a circle, big, bold", "a star; small"]),
        ("a.csv", 'prompt\n"a circle, big"\na star, small\n', ["a circle, big", "a star, small"]),
        ("a.csv", 'prompt\na sign, "open", red\n', ['a sign, "open", red']),
        ("a.csv", 'prompt\na 5" nail\n"a ""big"" star\nand more"\n', ['a 5" nail', 'a "big" star\nand more']),
        ("a.csv", "a circle\na star, small\n", ["a circle", "a star, small"]),
        ("a.csv", 'a circle\n"a star, small"\n', ["a circle", "a star, small"]),
        ("a.tsv", "a circle, big\na star\n", ["a circle, big", "a star"]),
        ("a.tsv", "a circle, big\na star, small\n", None),
        ("a.csv", "\n \nprompt\na circle\n", ["a circle"]),
        # several columns
        ("a.csv", "id;prompt\n1;a circle, big\n2;a star\n", ["a circle, big", "a star"]),
        ("a.csv", "id\tprompt\n1\ta circle, big\n", ["a circle, big"]),
        ("a.csv", "id|prompt\r\n1|a circle, big\r\n", ["a circle, big"]),
        ("a.tsv", "id,prompt\n1,a circle\n", ["a circle"]),
        ("a.csv", "id,prompt\n1,null\n2,None\n3,NA\n4,nan\n5,\n", ["null", "None", "NA", "nan"]),
        ("a.csv", "\ufeffprompt,id\r\na circle,1\r\n\r\na star,2\r\n", ["a circle", "a star"]),
        ("a.csv", "prompt,id\ra circle,1\ra star,2\r", ["a circle", "a star"]),
        ("a.csv", "id, prompt\n1, a circle\n", ["a circle"]),
        ("a.csv", ",prompt\n0,a circle\n", ["a circle"]),
        ("a.csv", '"id","prompt"\n"1","a ""big"" circle"\n', ['a "big" circle']),
        # tabs: quotation marks are text unless the file surely quotes
        ("a.tsv", 'Prompt\tNote\n"GIGGLE" in paint\t\na 5" nail\t\n', ['"GIGGLE" in paint', 'a 5" nail']),
        ("a.tsv", 'prompt\tid\n"a lone mark\t1\nanother "\t2\nthird\t3\n', None),
        ("a.tsv", 'prompt\tid\n"a lone mark\t1\nthird\t3\n', ['"a lone mark', "third"]),
        ("a.tsv", 'prompt\tid\n"a ""big"" star"\t1\n"x, y"\t2\n', ['a "big" star', "x, y"]),
        ("a.tsv", 'id\tprompt\n1\t"a red\ncircle"\n2\t"x"\n', ["a red\ncircle", "x"]),
        ("a.tsv", '"prompt"\t"id"\n"a circle"\t"1"\n', ["a circle"]),
    ],
)
def test_tables_as_people_write_them(tmp_path, name, data, prompts):
    if prompts is None:
        refusal(tmp_path, name, data)
    else:
        assert read(tmp_path, name, data) == prompts


@pytest.mark.parametrize(
    ("header", "row", "prompt"),
    [
        ("Prompt\tCategory\tChallenge\tNote", "42\tAbstract\tBasic\tnumbers", "42"),  # PartiPrompts
        ("Prompts,Category", "A red car.,Colors", "A red car."),  # DrawBench
        ("URL,TEXT,similarity", "u,a star,0.3", "a star"),  # LAION
        ("image_name,prompt,part_id,seed", "x.png,a star,1,2", "a star"),  # DiffusionDB
        ("best_image_uid,caption,model_0", "u,a star,m", "a star"),  # Pick-a-Pic
        ("prompt_id,prompt,classification", "1,a star,c", "a star"),  # ImageReward
        ("image,Captions", "1.jpg,a star", "a star"),
    ],
)
def test_columns_of_published_lists(tmp_path, header, row, prompt):
    name = "a.tsv" if "\t" in header else "a.csv"
    assert read(tmp_path, name, f"{header}\n{row}\n") == [prompt]


@pytest.mark.parametrize(
    ("name", "data", "column", "prompts"),
    [
        ("a.csv", "title,author\na star,me\n", "title", ["a star"]),
        ("a.csv", "title,prompt\na star,me\n", "Title", ["a star"]),
        ("a.csv", "text,caption\na star,a blue star\n", "caption", ["a blue star"]),
        ("a.csv", "Text,text\na star,a blue star\n", "text", ["a blue star"]),
        ("a.csv", "title\na star, big\n", "title", ["a star, big"]),
        ("a.csv", '1,"a star, big"\n2,a circle\n', "2", ["a star, big", "a circle"]),
        ("a.csv", "1;a star, big\n2;a circle\n", "2", ["a star, big", "a circle"]),
        ("a.tsv", 'a star\turl\na 5" nail\turl\n', "1", ["a star", 'a 5" nail']),
        ("a.jsonl", '{"title": "a star", "prompt": "x"}', "title", ["a star"]),
        ("a.json", '[{"sentences": ["a star", "a circle"]}]', "sentences", ["a star", "a circle"]),
    ],
)
def test_the_user_names_the_column(tmp_path, name, data, column, prompts):
    assert read(tmp_path, name, data, column=column) == prompts


@pytest.mark.parametrize(
    ("name", "data", "column", "says"),
    [
        ("a.csv", "id,prompt\n1,a circle, big, bold\n", None, "line 2 has 4 fields, the header has 2"),
        ("a.csv", "id,prompt\n1,a star\n2\n", None, "line 3 has 1 fields"),
        ("a.csv", 'prompt\n"Hello" says a robot\n', None, "line 2: .*quote the field as a whole"),
        ("a.csv", 'prompt\nfine\n"Hello", says a robot\n', None, "line 3 is quoted in part"),
        ("a.csv", 'prompt\nfine\n"never ends\nat all\n', None, "line 3: unexpected end"),
        ("a.csv", 'id,prompt\n1, "a star"\n', None, "line 2: white space before a quotation mark"),
        ("a.csv", "id,title\n1,x\n", None, "--column 1 to 2.*: id, title"),
        ("a.csv", "1;x, y\n2;z\n", None, "all lines hold a semicolon.*name the file .txt"),
        ("a.csv", "a star, big\n", None, "all lines hold a comma"),
        ("a.csv", "prompt,caption\nx,y\n", None, "2 columns.*: prompt, caption; name one with --column"),
        ("a.csv", "prompt,prompt\nx,y\n", None, "rename the column"),
        ("a.csv", "prompt;text,caption\n", None, "a header by comma and by semicolon"),
        ("a.csv", "id,prompt\n1,x\n", "Title", "no column Title.*found id, prompt"),
        ("a.csv", "id,prompt\n1,x\n", "2", "the first line is a header; name a column of id, prompt"),
        ("a.csv", "1,x\n2,y\n", "3", "no column 3.*found 1, 2"),
        ("a.csv", "1,x\n2,y\n", "0", "no column 0"),
        ("a.csv", "1,x\n2,y\n", "9" * 5000, "no column"),
        ("a.csv", "1,x, y\n2,y\n", "2", "no separator can divide all lines"),
        ("a.csv", "1;x, y\n2;z, w\n", "2", "comma and semicolon can divide"),
        ("a.tsv", 'prompt\tid\nx\t1\n"Hello"\t2\n', None, "line 3: the quotation marks"),
        ("a.txt", "x\n", "prompt", "--column prompt has no meaning"),
        ("a.jsonl", '"x"\n', "prompt", "line 1: expected an object with 'prompt', found a text"),
        ("a.jsonl", '{"prompt": "x"}\n{"title": "x"}', None, "line 2: expected a field .*found title"),
        ("a.jsonl", '{"prompt": "x", "text": "y"}', None, "line 1: has 2 fields.*: prompt, text"),
    ],
)
def test_what_cannot_be_read_for_sure_is_refused(tmp_path, name, data, column, says):
    message = refusal(tmp_path, name, data, column=column)
    assert re.search(says, message), message


# -------------------------------------------------------------------------- text and JSON


def test_nothing_but_line_ends_ends_a_line(tmp_path):
    prompts = ["a\u2028b", "c\x85d", "e\x0cf", "g\x0bh", "i\x1cj"]
    assert read(tmp_path, "a.txt", "\n".join(prompts)) == prompts
    records = "\r\n".join(json.dumps(prompt, ensure_ascii=False) for prompt in prompts)
    assert read(tmp_path, "a.jsonl", records) == prompts
    assert read(tmp_path, "a.csv", "prompt\n" + "\n".join(prompts)) == prompts
    assert read(tmp_path, "a.txt", "a\rb\r\nc\n") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.txt", b"", "holds no prompt"),
        ("a.csv", b"", "holds no prompt"),
        ("a.csv", b"prompt\n\n", "holds no prompt"),
        ("a.txt", b"\n  \n", "holds no prompt"),
        ("a.txt", b"\x89PNG\0\1", "line 1 is not UTF-8|line 1 is binary"),
        ("a.txt", b"fine\n\xff\xfe broken", "line 2 is not UTF-8.*iconv"),
        ("a.csv", "prompt\nein großer Kreis\n".encode("latin-1"), "line 2 is not UTF-8.*iconv"),
        ("a.txt", "a star\n".encode("utf-16"), "UTF-16.*iconv -f UTF-16"),
        ("a.txt", "a star\n".encode("utf-16-le"), "line 1 is binary.*iconv -f UTF-16"),
        ("a.txt", b"fine\n" + b"x" * 100_001, "line 2: a prompt of 100,001 characters"),
        ("a.jsonl", b'"fine"\n{"prompt": \n', "line 2"),
        ("a.jsonl", b'"fine"\n"\\ud83d"\n', r"line 2: \\ud83d is half of a surrogate pair"),
        ("a.jsonl", b'{"prompt": "a\\u0000b"}', "line 1: the prompt holds a NUL"),
        ("a.jsonl", b'"fine"\n' + b"[" * 100_000, "line 2: too deeply nested"),
        ("a.json", b'{"a":' * 100_000, "line 1: too deeply nested"),
        ("a.jsonl", b'{"prompt": "x", "prompt": "y"}', "line 1: an object has the field 'prompt' twice"),
        ("a.jsonl", b'{"prompt": NaN}', "line 1: prompt: expected text, found a number"),
        ("a.jsonl", b'{"prompt": 42}', "line 1: prompt: expected text, found a number"),
        ("a.jsonl", b'{"prompt": ["x", true]}', "line 1: prompt: expected text, found true or false"),
        ("a.jsonl", b'["x", "y"]', "line 1: expected a text or an object, found a list"),
        ("a.json", b"{", "line 1 column 2: not valid JSON"),
        ("a.json", b'"x"\n"y"\n', "name the file .jsonl"),
        ("a.json", b'{"images": []}', "annotations.*found images"),
        ("a.json", b'{"annotations": {"a": 1}}', "annotations: expected a list, found an object"),
        ("a.json", b'{"annotations": [{"caption": "x"}, 5]}', r"annotations\[1\]: .*found a number"),
        ("a.parquet", b"not parquet", "cannot be read as parquet"),
        ("a.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1", "cannot be read as parquet"),
        ("a.docx", b"x", "expected one of .txt"),
        ("a", b"x", "no suffix"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, name, data, says):
    message = refusal(tmp_path, name, data)
    assert re.search(says, message), message


def test_records_may_hold_null_and_other_fields_of_any_kind(tmp_path):
    data = '{"prompt": null}\n{"prompt": "x", "score": NaN, "n": ' + "1" * 5000 + "}\n\n"
    path = tmp_path / "a.jsonl"
    path.write_text(data)
    file = read_prompts(path)
    assert (file.prompts, file.blank) == (("x",), 1)


def test_a_line_without_end_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.write(b"x" * (1 << 25))
        file.truncate(1 << 34)  # 16 GB that take no space
    with pytest.raises(UsageProblem, match="line 1 is longer than 16,777,216 characters"):
        read_prompts(path)
    with pytest.raises(UsageProblem, match=r"one document of 17,179,869,184 bytes.*jsonl"):
        read_prompts(path.rename(tmp_path / "a.json"))


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


# -------------------------------------------------------------------------------- parquet


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
