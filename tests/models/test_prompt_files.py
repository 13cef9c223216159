import json
from pathlib import Path

import pandas
import pytest

from sdquant_cli.errors import UsageProblem
from sdquant_cli.models.prompt_files import read_prompts

PROMPTS = ["a red circle", "a blue star, big", "a red circle"]


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"prompts{suffix}"
    if suffix == ".txt":
        path.write_text("\n".join([PROMPTS[0], "", "  ", *PROMPTS[1:]]) + "\n", encoding="utf-8-sig")
    elif suffix in (".csv", ".tsv"):
        frame = pandas.DataFrame({"id": range(3), "caption": PROMPTS})
        frame.to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)
    elif suffix == ".jsonl":
        path.write_text(
            "\n".join([json.dumps(PROMPTS[0]), *(json.dumps({"prompt": p}) for p in PROMPTS[1:])])
        )
    elif suffix == ".parquet":
        pandas.DataFrame({"text": PROMPTS, "n": 1}).to_parquet(path)
    else:
        path.write_text(json.dumps({"images": [], "annotations": [{"caption": p, "id": 1} for p in PROMPTS]}))
    return path


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".json"])
def test_every_format_gives_the_same_prompts(tmp_path, suffix):
    found = read_prompts(written(tmp_path, suffix))
    assert list(found.prompts) == PROMPTS
    assert found.duplicates == 1
    assert found.blank == (2 if suffix == ".txt" else 0)
    assert read_prompts(written(tmp_path, suffix), limit=2).prompts == tuple(PROMPTS[:2])


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.txt", b"", "holds no prompt"),
        ("a.txt", b"\n  \n", "holds no prompt"),
        ("a.txt", b"\x89PNG\0\1", "is binary"),
        ("a.txt", b"fine\n\xff\xfe broken", "line 2 is not UTF-8"),
        ("a.jsonl", b'"fine"\n{"prompt": \n', "line 2"),
        ("a.jsonl", b'{"title": "x"}\n', "line 1: no text field"),
        ("a.json", b"{", "expected COCO captions"),
        ("a.json", b'{"images": []}', "annotations"),
        ("a.csv", b"id,title\n1,x\n", "expected a column prompt or caption or text, found id, title"),
        ("a.parquet", b"not parquet", "a.parquet"),
        ("a.docx", b"x", "expected one of .txt"),
        ("a", b"x", "no suffix"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, name, data, says):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UsageProblem, match=says) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UsageProblem, match="no such file"):
        read_prompts(tmp_path / "absent.txt")
    with pytest.raises(UsageProblem, match="is a folder"):
        read_prompts(tmp_path)
