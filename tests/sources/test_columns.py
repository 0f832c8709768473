"""Files beside an image become columns; what is kept of them stays small."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbus.sources.columns import MAX_COLUMNS, MAX_KEPT_BYTES, ColumnError, columns_of, kept, url_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_each_suffix_has_its_way() -> None:
    assert columns_of("txt", "\ufeff a cat\n".encode()) == {"txt": "a cat"}
    assert columns_of("cls", b"7\n") == {"cls": "7"}
    assert columns_of("caption.txt", b"x") == {"caption.txt": "x"}
    assert columns_of("json", b'{"title": "t", "n": [1, 2]}') == {"title": "t", "n": [1, 2]}
    assert columns_of("json", b"[1]") == {"json": [1]}
    assert columns_of("meta.json", b'"x"') == {"meta.json": "x"}
    assert columns_of("json", b'{"a": NaN, "b": 1e999, "c": -Infinity}') == {"a": None, "b": None, "c": None}


@pytest.mark.parametrize(
    ("suffix", "data", "said"),
    [
        ("json", b"{", "is no JSON"),
        ("json", b"[" * 100_000, "is no JSON"),
        ("json", b"1" * 10_000, "is no JSON"),
        ("json", b"\xff", "not UTF-8"),
        ("txt", b"\xff\xfe", "not UTF-8"),
        ("json", json.dumps({str(n): n for n in range(MAX_COLUMNS + 1)}).encode(), "more than 1000 keys"),
    ],
)
def test_what_is_no_column_says_so(suffix: str, data: bytes, said: str) -> None:
    with pytest.raises(ColumnError, match=said):
        columns_of(suffix, data)


@given(columns=st.dictionaries(st.text(), JSON, max_size=5))
def test_what_is_kept_comes_back(columns: dict[str, object]) -> None:
    text = kept(columns, ["*"])
    assert (json.loads(text) if text else {}) == columns


def test_only_what_was_asked_for_is_kept() -> None:
    assert kept({"a": 1, "b": 2}, ["b", "c"]) == '{"b": 2}'
    assert kept({"a": 1}, []) == kept({}, ["*"]) == kept({"a": 1}, ["c"]) == ""


def test_what_does_not_fit_is_left_out_by_name() -> None:
    text = kept({"small": 1, "large": "x" * MAX_KEPT_BYTES, "wide": "\u5199" * MAX_KEPT_BYTES}, ["*"])
    assert len(text.encode()) <= MAX_KEPT_BYTES
    assert json.loads(text) == {"small": 1, "(left out)": ["wide", "large"]}
    many = kept({str(n): "x" * 100 for n in range(1000)}, ["*"])
    assert len(many.encode()) <= MAX_KEPT_BYTES


def test_half_characters_do_not_get_through() -> None:
    columns = columns_of("json", b'{"a": "\\ud800", "url": "http://x/\\ud800"}')
    assert json.loads(kept(columns, ["a"])) == {"a": "?"}
    assert url_of(columns) == ""


def test_the_url_is_a_sensible_text_or_none() -> None:
    assert url_of({"url": "https://example.org/a b.jpg"}) == "https://example.org/a b.jpg"
    for odd in (None, 7, "x\n", "\x1b[31m", "h" * 3000, ["x"]):
        assert url_of({"url": odd}) == ""
