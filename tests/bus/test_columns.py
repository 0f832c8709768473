"""A table that came from outside is whole, or it is refused."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfbus.bus.columns import LAYOUTS, TableError, TextColumn, WordColumn, build, from_plain, to_plain
from cfbus.bus.fields import MAX_CAPTION_BYTES
from cfbus.bus.wire import WireError, decode_table, encode_table

SLOTS = ("a", "b")
ROWS = 3


def table(kind: str, rows: int = ROWS, text: str = "ä€𐍈x") -> dict[str, Any]:
    """A valid table of a kind, as plain maps that can be spoilt."""
    layout = LAYOUTS[kind]
    cells: dict[str, object] = {"text": text, "binary": b"\xff\x00", "word": "w", "hash": bytes(32)}
    columns: dict[str, Any] = {}
    for columns_of, count in ((layout.items, rows), (layout.captions, rows * len(SLOTS))):
        for name, what in columns_of.items():
            columns[name] = [cells.get(what, 1)] * count
    built = build(
        kind,
        rows,
        columns,
        dict.fromkeys(layout.constants, "x"),
        dict.fromkeys(layout.per_slot, SLOTS),
    )
    plain: dict[str, Any] = msgpack.unpackb(encode_table(built), use_list=False)
    assert from_plain(kind, plain).rows == rows
    return plain


def spoil(plain: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    return {**plain, "columns": {**plain["columns"], name: value}}


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_a_table_comes_back_as_it_was(kind: str, rows: int) -> None:
    plain = table(kind, rows)
    back = from_plain(kind, plain)
    again = msgpack.unpackb(msgpack.packb(to_plain(back)), use_list=False)
    assert again == plain


@pytest.mark.parametrize("kind", LAYOUTS)
@settings(max_examples=60, deadline=20_000)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_table_or_refused(kind: str, data: bytes) -> None:
    try:
        decode_table(kind, data)
    except WireError as error:
        assert error.code in ("table", "msgpack")  # noqa: PT017


@pytest.mark.parametrize("kind", LAYOUTS)
@settings(max_examples=60, deadline=20_000)
@given(data=st.data())
def test_a_changed_table_is_whole_or_refused(kind: str, data: st.DataObject) -> None:
    """Flip, cut or insert bytes of a valid table: what is still accepted can be read to its last cell."""
    payload = bytearray(msgpack.packb(table(kind)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        change = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if change == "flip":
            payload[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del payload[at]
        else:
            payload.insert(at, data.draw(st.integers(0, 255)))
    try:
        read = decode_table(kind, bytes(payload))
    except WireError:
        return
    read_all(kind, read)


def read_all(kind: str, read: Any) -> None:
    """Every cell can be read, and there are as many as there should be."""
    layout = LAYOUTS[kind]
    per_item = len(read.slot_names)
    for columns, rows in ((layout.items, read.rows), (layout.captions, read.rows * per_item)):
        for name, what in columns.items():
            column = read.columns[name]
            if isinstance(column, TextColumn):
                cells: list[Any] = column.texts() if what == "text" else [column.raw(row) for row in range(len(column))]
                assert sum(len(cell.encode() if isinstance(cell, str) else cell) for cell in cells) == len(column.data)
            elif isinstance(column, WordColumn):
                cells = column.texts()
            else:
                cells = list(column)
            assert len(cells) == rows * (32 if what == "hash" else 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=8), st.data())
def test_texts_are_cut_where_characters_end_or_refused(texts: list[str], data: st.DataObject) -> None:
    """Any lengths that add up are accepted exactly when every row is valid UTF-8 by itself."""
    whole = "".join(texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    cells = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    plain = table("failures")
    column = (np.array([len(cell) for cell in cells], "<i4").tobytes(), whole)
    try:
        rows = [cell.decode() for cell in cells]
    except UnicodeDecodeError:
        with pytest.raises(TableError, match=r"UTF-8|character"):
            from_plain("failures", spoil(plain, "detail", column))
    else:
        assert from_plain("failures", spoil(plain, "detail", column)).text("detail").texts() == rows


@pytest.mark.parametrize(
    "column",
    [
        None,
        b"",
        (b"",),
        (b"", b"", b""),
        (b"\0" * 11, b""),
        (np.array([1, 1, 1], "<i4").tobytes(), b"ab"),
        (np.array([1, 1, 1], "<i4").tobytes(), b"abcd"),
        (np.array([-1, 1, 1], "<i4").tobytes(), b"a"),
        (np.array([2, -1, 1], "<i4").tobytes(), b"ab"),
        (np.array([2**31 - 1, 2**31 - 1, 4], "<i4").tobytes(), b"ab"),
        (np.array([MAX_CAPTION_BYTES + 1, 0, 0], "<i4").tobytes(), b"x" * (MAX_CAPTION_BYTES + 1)),
        (np.array([1, 1, 0], "<i4").tobytes(), "ä".encode()),
        (np.array([1, 0, 1], "<i4").tobytes(), "ä".encode()),
        (np.array([2, 0, 0], "<i4").tobytes(), b"\xff\xff"),
        (np.array([3, 0, 0], "<i4").tobytes(), b"\xed\xa0\x80"),
        (np.array([1, 1, 1], "<i4").tobytes(), "abc"),
    ],
)
def test_a_bad_text_column_is_refused(column: object) -> None:
    with pytest.raises(TableError):
        from_plain("failures", spoil(table("failures"), "detail", column))


@pytest.mark.parametrize(
    "column",
    [
        None,
        (b"\0\0", ("w",)),
        (b"\0\0\1", ("w",)),
        (b"\0\0\0", ()),
        (b"\0\0\0", "w"),
        (b"\0\0\0", (b"w",)),
        (b"\0\0\0", ("w" * 513,)),
        (b"\0\0\0", ("w",) * 256),
    ],
)
def test_a_bad_word_column_is_refused(column: object) -> None:
    with pytest.raises(TableError):
        from_plain("failures", spoil(table("failures"), "reason", column))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("rows", -1),
        ("rows", True),
        ("rows", 1 << 24),
        ("rows", 2.0),
        ("rows", 2),
        ("columns", {}),
        ("columns", None),
        ("constants", {}),
        ("constants", {"spec": 1}),
        ("slots", {}),
        ("slots", {"slot": (), "stage": (), "prompt_id": ()}),
        ("slots", {"slot": ("a", "b"), "stage": ("a",), "prompt_id": ("a", "b")}),
        ("slots", {"slot": ("a",), "stage": ("a",), "prompt_id": ("a",)}),
        ("slots", {"slot": ("a",) * 17, "stage": ("a",) * 17, "prompt_id": ("a",) * 17}),
        ("more", 1),
    ],
)
def test_a_bad_part_is_refused(part: str, value: object) -> None:
    with pytest.raises(TableError):
        from_plain("captions", {**table("captions"), part: value})


def test_numbers_of_a_wrong_length_are_refused() -> None:
    plain = table("captions")
    for name in ("image_width", "image_sha256", "seed", "mean_logprob"):
        with pytest.raises(TableError, match=name):
            from_plain("captions", spoil(plain, name, plain["columns"][name][:-1]))


def test_unknown_numbers_are_welcome() -> None:
    plain = table("captions")
    nan = np.array([math.nan] * ROWS * len(SLOTS), "<f4").tobytes()
    assert from_plain("captions", spoil(plain, "mean_logprob", nan)).rows == ROWS


def test_columns_are_cut_like_lists() -> None:
    column = TextColumn.of(["a", "", "äö", "z"])
    assert column.slice(1, 3).texts() == ["", "äö"]
    assert column.slice(2, 2).texts() == []
    assert WordColumn.of(["x", "y", "x"]).texts() == ["x", "y", "x"]
