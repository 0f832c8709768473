"""Rows of lists, as they are written by hand, by pandas and by nobody who means well."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfbus.sources import list_rows
from cfbus.sources.list_rows import MAX_LINE_BYTES, BadListError, Row, open_list


def read(folder: Path, name: str, data: bytes | str) -> tuple[list[str], list[Row]]:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with open_list(path) as opened:
        return opened.names, list(opened.rows)


def broken(folder: Path, name: str, data: bytes | str) -> tuple[int, str]:
    """How many rows came before the end, and how it ended."""
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    rows: list[Row] = []
    with pytest.raises(BadListError) as caught, open_list(path) as opened:
        rows.extend(opened.rows)
    return len(rows), str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "url,title\nhttp://a/1,one\nhttp://a/2,two\n"),
        ("a.csv", "\ufeffurl,title\r\nhttp://a/1,one\r\n\r\nhttp://a/2,two"),
        ("a.csv", "url;title\nhttp://a/1;one\nhttp://a/2;two\n"),
        ("a.csv", 'url,title\n"http://a/1","one"\n"http://a/2",two\n'),
        ("a.TSV", "url\ttitle\nhttp://a/1\tone\nhttp://a/2\ttwo\n"),
        ("a.jsonl", '{"url": "http://a/1", "title": "one"}\n\n{"url": "http://a/2", "title": "two"}'),
        (
            "a.ndjson",
            '\ufeff{"url":"http://a/1","title":"one","list":[1]}\n{"url":"http://a/2","title":"two","x":null}\n',
        ),
    ],
)
def test_the_same_rows_however_they_are_written(tmp_path: Path, name: str, text: str) -> None:
    want = [{"url": "http://a/1", "title": "one"}, {"url": "http://a/2", "title": "two"}]
    for packed in (False, True):
        data = gzip.compress(text.encode()) if packed else text.encode()
        names, rows = read(tmp_path, name + ".gz" * packed, data)
        assert names[:2] == ["url", "title"]
        assert rows == want


def test_plain_text_is_an_address_a_line(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "http://a/1\n\n http://a/2 \r\n") == (
        ["url"], [{"url": "http://a/1"}, {"url": "http://a/2"}],
    )  # fmt: skip


def test_quoted_line_ends_and_commas_belong_to_their_cell(tmp_path: Path) -> None:
    _, rows = read(tmp_path, "a.csv", 'url,title\nhttp://a/1,"one,\nand ""more"""\nhttp://a/2,two\n')
    assert rows == [{"url": "http://a/1", "title": 'one,\nand "more"'}, {"url": "http://a/2", "title": "two"}]


def test_rows_that_are_too_short_or_too_long(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", "a,b\n1\n1,2,3\n")[1] == [{"a": "1"}, {"a": "1", "b": "2"}]


def test_a_line_that_is_no_json_is_a_row_with_a_sentence(tmp_path: Path) -> None:
    lines = [
        '{"url":"http://a/1"}',
        "{oops",
        "[1]",
        "7",
        '{"url": NaN, "x": 1e999}',
        "[" * 100_000,
        '{"url":"http://a/2"}',
    ]
    names, rows = read(tmp_path, "a.jsonl", "\n".join(lines) + "\n")
    assert names == ["url"]
    assert rows[0] == {"url": "http://a/1"}
    assert [isinstance(row, str) for row in rows] == [False, True, True, True, False, True, False]
    assert rows[4] == {}
    assert "no JSON" in str(rows[1])


def test_a_json_line_without_end_costs_a_sentence_and_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"url":"' + b"x" * (64 << 20) + b'"}\n{"url":"http://a/2"}\n'))
    tracemalloc.start()
    try:
        with open_list(path) as opened:
            rows = list(opened.rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == [f"Its line has more than {MAX_LINE_BYTES} bytes.", {"url": "http://a/2"}]
    assert peak < 8 << 20


CUT_OFF = gzip.compress(b"url\n" + b"http://a/1\n" * 1000, mtime=0)[:-20]


@pytest.mark.parametrize(
    ("name", "data", "rows", "said"),
    [
        ("a.csv", "url\nhttp://a/1\n" + "x" * (MAX_LINE_BYTES + 1) + "\nhttp://a/2\n", 1, "a line of more than"),
        ("a.csv", 'url\nhttp://a/1\n"' + "x\n" * 100_000, 1, "field larger than"),
        ("a.csv.gz", CUT_OFF, None, "cannot be read any further"),
        ("a.csv.gz", b"no gzip at all", 0, "cannot be read"),
        ("a.parquet", b"PAR1 no parquet at all", 0, "cannot be read any further"),
        ("a.parquet", b"", 0, "cannot be read any further"),
        ("a.jpg", b"", 0, "is no list"),
        ("a.gz", b"", 0, "is no list"),
    ],
)
def test_what_cannot_be_understood_ends_the_list(
    tmp_path: Path, name: str, data: bytes | str, rows: int | None, said: str
) -> None:
    before, sentence = broken(tmp_path, name, data)
    assert rows in (None, before)
    assert said in sentence


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadListError, match="cannot be read: No such file"), open_list(tmp_path / "a.csv"):
        pass


def test_parquet_by_small_columns_over_row_groups(tmp_path: Path) -> None:
    table = pa.table({
        "URL": [f"http://a/{number}" for number in range(10)],
        "TEXT": pa.array(["x"] * 9 + [None]).dictionary_encode(),
        "embedding": [[0.5] * 8] * 10,
        "score": [float("nan"), *[0.5] * 9],
        "jpg": [b"\xff"] * 10,
        "ok": [True] * 10,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    with open_list(tmp_path / "a.parquet") as opened:
        rows: list[Any] = list(opened.rows)
    assert opened.names == ["URL", "TEXT", "score", "ok"]
    assert rows[0] == {"URL": "http://a/0", "TEXT": "x", "ok": True}
    assert rows[9] == {"URL": "http://a/9", "score": 0.5, "ok": True}
    json.dumps(rows, allow_nan=False)


def test_appended_rows_change_none_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_rows, "BATCH_ROWS", 4)
    for count in (10, 23):
        pq.write_table(
            pa.table({"url": [str(number) for number in range(count)]}), tmp_path / "a.parquet", row_group_size=7
        )
        with open_list(tmp_path / "a.parquet") as opened:
            assert list(opened.rows) == [{"url": str(number)} for number in range(count)]
