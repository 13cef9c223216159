"""JSON Lines and JSON."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdquant_cli.prompts.read import read_prompts
from sdquant_cli.prompts.records import read_json, read_json_lines

from .files import assert_comes_back, prompt_lists, read, refusal


@given(prompt_lists, st.booleans())
def test_any_prompts_come_back_from_json_lines(tmp_path_factory, prompts, escaped):
    lines = [json.dumps({"id": 1, "prompt": prompt}, ensure_ascii=escaped) + "\n" for prompt in prompts]
    assert_comes_back("".join(lines).encode(), ".jsonl", prompts, tmp_path_factory, refusable=False)


@given(prompt_lists, st.booleans(), st.sampled_from([None, 1]))
def test_any_prompts_come_back_from_json(tmp_path_factory, prompts, escaped, indent):
    document = {"annotations": [{"image_id": 1, "caption": prompt} for prompt in prompts]}
    for shape in (document, prompts, {"prompts": prompts}):
        data = json.dumps(shape, ensure_ascii=escaped, indent=indent).encode()
        assert_comes_back(data, ".json", prompts, tmp_path_factory, refusable=False)


def test_records_may_hold_null_and_other_fields_of_any_kind(tmp_path):
    data = '{"prompt": null}\n{"prompt": "x", "score": NaN, "n": ' + "1" * 5000 + "}\n\n"
    path = tmp_path / "a.jsonl"
    path.write_text(data)
    file = read_prompts(path)
    assert (file.prompts, file.blank) == (("x",), 1)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
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
    ],
)
def test_bad_json_is_named_in_one_line(tmp_path, name, data, says):
    message = refusal(tmp_path, name, data)
    assert re.search(says, message), message


@pytest.mark.parametrize(
    ("name", "data", "column", "says"),
    [
        ("a.jsonl", '"x"\n', "prompt", "line 1: expected an object with 'prompt', found a text"),
        ("a.jsonl", '{"prompt": "x"}\n{"title": "x"}', None, "line 2: expected a field .*found title"),
        ("a.jsonl", '{"prompt": "x", "text": "y"}', None, "line 1: has 2 fields.*: prompt, text"),
    ],
)
def test_records_without_one_field_of_prompts_are_refused(tmp_path, name, data, column, says):
    message = refusal(tmp_path, name, data, column=column)
    assert re.search(says, message), message


@pytest.mark.parametrize(
    ("name", "data", "column", "prompts"),
    [
        ("a.jsonl", '{"title": "a star", "prompt": "x"}', "title", ["a star"]),
        ("a.json", '[{"sentences": ["a star", "a circle"]}]', "sentences", ["a star", "a circle"]),
    ],
)
def test_the_user_names_the_field(tmp_path, name, data, column, prompts):
    assert read(tmp_path, name, data, column=column) == prompts


def test_entries_have_their_position(tmp_path):
    path = tmp_path / "a"
    path.write_text('"x"\n\n{"prompts": ["y", null]}\n')
    assert list(read_json_lines(path, None)) == [("line 1", "x"), ("line 3", "y"), ("line 3", "")]
    path.write_text('{"annotations": [{"caption": "x"}, {"caption": "y"}]}')
    assert list(read_json(path, None)) == [("annotations[0]", "x"), ("annotations[1]", "y")]
