import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdquant_cli.sealed import (
    is_intact,
    is_sealed,
    not_finite,
    parse,
    read_json,
    remove_file,
    seal,
    write_file,
    write_json,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda name: name != "checksum"), VALUES))
def test_what_is_sealed_comes_back_and_is_intact(document):
    sealed = parse(seal(document))
    assert is_sealed(sealed)
    assert {name: value for name, value in sealed.items() if name != "checksum"} == document


@given(st.data())
def test_another_value_anywhere_breaks_the_seal(data):
    document = {"a": {"b": [1, 2.5, "x"], "c": None}, "d": True}
    text = seal(document)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + bytes([data.draw(st.integers(32, 126))]) + text[at + 1 :]
    try:
        sealed = is_sealed(parse(changed))
    except ValueError:
        return
    assert not sealed or parse(changed) == parse(text)


@pytest.mark.parametrize(
    "data", [b"NaN", b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}', b"[" * 100_000, b"1"]
)
def test_what_is_no_plain_object_is_refused(data):
    with pytest.raises(ValueError, match=r"not a finite number|too deep|not a JSON object"):
        parse(data)


def test_the_first_number_that_is_not_finite_is_named():
    assert not_finite({"a": [1.0, {"b": (0.5, float("nan"))}], "c": float("inf")}) == "a.1.b.1"
    assert not_finite(json.loads('{"a": [1.0, true, "nan", null]}')) is None


def test_a_json_file_is_read_back_unless_it_is_damaged(tmp_path):
    path = tmp_path / "cost.json"
    assert read_json(path) is None
    write_json(path, {"seconds": 1.5})
    assert read_json(path)["seconds"] == 1.5
    path.write_bytes(path.read_bytes().replace(b"1.5", b"1.6"))
    assert read_json(path) is None


def test_a_file_is_intact_until_a_byte_changes(tmp_path):
    path = tmp_path / "a.pt"
    write_file(path, lambda partial: partial.write_bytes(b"abc"))
    assert is_intact(path)
    path.write_bytes(b"abd")
    assert not is_intact(path)
    remove_file(path)
    assert list(tmp_path.iterdir()) == []
    assert not is_intact(path)
