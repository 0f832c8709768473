"""Places in prompts are filled with columns, literally, and nothing else is touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbus.core.prompts import MAX_VALUE_CHARS, Missing, MissingColumnError, as_text, columns_in, filled, names_in


def test_places_are_filled_and_all_else_stays() -> None:
    prompt = 'Title: {column:title}; again {col: title }; {"json": {x}} {other} {{col:n}} {column:}'
    assert columns_in(prompt) == ("title", "n")
    assert filled(prompt, {"title": "A {col:n} cat", "n": 3}, "fail") == (
        'Title: A {col:n} cat; again A {col:n} cat; {"json": {x}} {other} {3} {column:}'
    )


@given(prompt=st.text(st.sampled_from("{}:colmnx a"), max_size=40), value=st.text(max_size=10))
def test_a_prompt_without_places_is_itself_and_values_are_not_read(prompt: str, value: str) -> None:
    if not columns_in(prompt):
        assert filled(prompt, {}, "fail") == prompt
    assert filled("<{col:x}>", {value: "no", "x": value}, "fail") == f"<{value}>"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"), (3, "3"), (0.5, "0.5"), (True, "true"), (["a", "b"], "a, b"), ([1, "b"], '[1, "b"]'), ([], ""),
        ({"a": "é"}, '{"a": "é"}'), (None, ""), ("\ud800x", "?x"),
        ("y" * (MAX_VALUE_CHARS + 1), "y" * (MAX_VALUE_CHARS - 1) + "…"),
    ],
)  # fmt: skip
def test_values_as_they_stand_in_prompts(value: object, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("columns", [{}, {"a": None}])
def test_what_a_missing_column_does(columns: dict[str, object]) -> None:
    answers: dict[Missing, str | None] = {"empty": "<> here", "skip": None}
    for policy, answer in answers.items():
        assert filled("<{col:a}> {col:b}", {**columns, "b": "here"}, policy) == answer
    with pytest.raises(MissingColumnError) as caught:
        filled("<{col:a}>", columns, "fail")
    assert caught.value.name == "a"


def test_names_stand_for_earlier_captions_and_other_braces_stay() -> None:
    earlier = {"short": "a {tags} cat", "tags": "{col:title}"}
    prompt = "{short} / {tags} / {other} / {col:title} / {Short}"
    assert filled(prompt, {"title": "T {short}"}, "fail", earlier) == (
        "a {tags} cat / {col:title} / {other} / T {short} / {Short}"
    )
    assert names_in(prompt) == ("short", "tags", "other")
